"""The demo page's HTML, a Jinja2 template; its style fits screens from phones on."""

from __future__ import annotations

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>seg_node demo: {{ results.data }}</title>
<style>
:root { color-scheme: light dark; --ground: #f5f5f2; --card: #fff; --ink: #1c1e21;
  --soft: #62676e; --line: #dfe0dc; --good: #1a7f4b; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ground: #14161a; --card: #1e2126;
  --ink: #e8e8e6; --soft: #9aa0a8; --line: #33373e; --good: #5fce96; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p { margin: .3rem 0; }
.soft { color: var(--soft); }
.verdict { font-weight: 600; }
.good { color: var(--good); }
.bad { color: var(--bad); }
.tiles { display: grid; gap: .75rem; margin: 1.25rem 0;
  grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .8rem .9rem; }
.tile b { font-size: 1.7rem; line-height: 1.1; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .85rem; }
.tile div { font-size: .85rem; }
video, .frames img { display: block; width: 100%; height: auto; border-radius: .6rem;
  background: #18181c; }
video { max-height: 80vh; }
.frames { display: grid; gap: .5rem; margin: 0 0 1rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); }
.chips { display: flex; flex-wrap: wrap; gap: .4rem .9rem; padding: 0; margin: .8rem 0;
  list-style: none; font-size: .9rem; }
.chips i { display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem;
  margin-right: .4rem; border: 1px solid var(--line); vertical-align: -.05rem; }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .4rem .8rem; vertical-align: top;
  border-top: 1px solid var(--line); overflow-wrap: anywhere; }
tr:first-child > * { border-top: 0; }
th { font-weight: 500; color: var(--soft); white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { height: .45rem; margin-top: .5rem; border-radius: .25rem; min-width: 2px; }
details > summary { cursor: pointer; font-weight: 600; margin: 1rem 0 .6rem; }
code { font-size: .85rem; overflow-wrap: anywhere; }
</style>
</head>
<body>
<main>
<h1>{{ results.data }}</h1>
<p class="soft">segmented by {{ results.model.name }} on {{ results.device or "?" }}, in the real
ROS 2 node over DDS ({{ results.versions.middleware }})</p>
{% if demo.problems %}
{% for problem in demo.problems %}<p class="verdict bad">Failed: {{ problem }}</p>
{% endfor %}
{% else %}
<p class="verdict good">Passed: enough frames came back, and no mask is empty.</p>
{% endif %}
{% if results.interrupted %}<p class="verdict bad">Interrupted by Ctrl-C.</p>{% endif %}
{% for note in demo.notes %}<p class="soft">{{ note }}</p>
{% endfor %}

<div class="tiles">
{% for value, unit, what in tiles %}
<div class="tile"><b>{{ value }}</b> <span>{{ unit }}</span><div>{{ what }}</div></div>
{% endfor %}
</div>

<video src="preview.mp4" controls autoplay muted loop playsinline></video>
<ul class="chips">
{% for item in classes %}<li><i style="background: {{ item.color }}"></i>{{ item.name }}</li>
{% endfor %}
</ul>

<h2>Frames of the clip</h2>
<p class="soft">{% for view in shown %}{% if not loop.first %} &middot; {% endif %}
<b>{{ view }}</b>: {{ views[view] }}{% endfor %}</p>
{% for frame in frames %}
<div class="frames">
{% for view, picture in frame.items() %}
<img src="data:image/jpeg;base64,{{ picture }}" alt="{{ view }}: {{ views[view] }}">
{% endfor %}
</div>
{% endfor %}

<h2>Measured</h2>
<div class="wide"><table>
<tr><th>played</th><td>{{ demo.played }} frames{% if demo.played_hz %},
{{ "%.2f" % demo.played_hz }} Hz{% endif %}</td></tr>
<tr><th>came back</th><td>{{ demo.returned }} masks{% if demo.returned_hz %},
{{ "%.2f" % demo.returned_hz }} Hz{% endif %}; {{ entry.dropped }} dropped</td></tr>
{% if demo.latency_ms %}<tr><th>latency</th><td>p50 {{ "%.1f" % demo.latency_ms.p50 }} ms,
p95 {{ "%.1f" % demo.latency_ms.p95 }} ms, max {{ "%.1f" % demo.latency_ms.max }} ms
<span class="soft">(stamp at publication to mask received)</span></td></tr>{% endif %}
{% if entry.ms %}<tr><th>step</th><td>p50 {{ "%.1f" % entry.ms.p50 }} ms,
p95 {{ "%.1f" % entry.ms.p95 }} ms, max {{ "%.1f" % entry.ms.max }} ms</td></tr>
<tr><th>compute</th><td>{{ "%.2f" % entry.gmac_per_frame }} GMAC a frame, mode
{{ mode }}{% if entry.gmac_saving %}: {{ "%.1f" % (100 * entry.gmac_saving) }} % less than dense
{% endif %}</td></tr>{% endif %}
{% if mode != "dense" and entry.ms %}<tr><th>blocks</th><td>{% for action, share in
entry.fractions.items() if share is not none %}{% if not loop.first %}, {% endif %}
{{ "%.1f" % (100 * share) }} % {{ action | upper }}{% endfor %}</td></tr>
<tr><th>oldest block</th><td>p50 {{ "%.0f" % entry.age_ms.p50 }} ms,
p95 {{ "%.0f" % entry.age_ms.p95 }} ms, max {{ "%.0f" % entry.age_ms.max }} ms
<span class="soft">(since its newest full computation)</span></td></tr>{% endif %}
<tr><th>empty masks</th><td>{{ demo.empty_masks | length }}</td></tr>
{% for name, state in demo.health.items() %}
<tr><th>node: {{ name }}</th><td>{{ state.last }}{% if state.worst %}
<span class="soft">(worst during the clip: {{ levels[state.worst] }})</span>{% endif %}</td></tr>
{% endfor %}
{% for reason, count in source.skipped_reasons.items() %}
<tr><th>skipped</th><td>{{ count }} x {{ reason }}</td></tr>
{% endfor %}
{% if source.shortfall %}<tr><th>data</th><td>{{ source.shortfall }}</td></tr>{% endif %}
</table></div>

{% if entry.miou is not none %}
<h2>Scores against the true labels</h2>
<p class="soft">mIoU {{ "%.4f" % entry.miou }}, pixel accuracy
{{ "%.4f" % entry.pixel_accuracy }}, pooled over {{ entry.labelled_frames }} frames</p>
<div class="wide"><table>
{% for name, value in iou %}
<tr><th>{{ name }}</th><td style="width: 70%">{% if value is not none %}<div class="bar"
 style="width: {{ "%.1f" % (100 * value) }}%; background: {{ classes[loop.index0].color }}"></div>
{% endif %}</td><td class="number">{{ "absent" if value is none else "%.3f" % value }}</td></tr>
{% endfor %}
</table></div>
{% endif %}

<details><summary>Parameters, versions, files</summary>
<div class="wide"><table>
{% for name, value in results.config.items() %}
<tr><th>{{ name }}</th><td><code>{{ value }}</code></td></tr>
{% endfor %}
{% for name, value in results.versions.items() %}
<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}
<tr><th>converter</th><td>{{ demo.converter }}</td></tr>
<tr><th>model sha256</th><td><code>{{ results.model.sha256 }}</code></td></tr>
{% if source.sha256 %}<tr><th>data sha256</th><td><code>{{ source.sha256 }}</code></td></tr>
{% endif %}
<tr><th>node</th><td><code>python {{ demo.node_command | join(" ") }}</code></td></tr>
<tr><th>files</th><td><a href="preview.mp4">preview.mp4</a>,
<a href="contact_sheet.png">contact_sheet.png</a>, <a href="results.json">results.json</a>,
<a href="node.log">node.log</a>, result_bag/ (masks, overlays and statistics at the stamps of the
source)</td></tr>
</table></div>
</details>
</main>
</body>
</html>
"""
