// Draws the plots of the page from the JSON beside it, with Chart.js.
'use strict';

const data = JSON.parse(document.getElementById('data').textContent);
const SOFT = '#5a6068';
const ACTIONS = [
  ['high', 'computed in full', '#ffa01e'],
  ['low', 'at half resolution', '#46aff0'],
  ['reuse', 'remembered', '#58585c'],
];

Chart.defaults.font.family = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
Chart.defaults.color = SOFT;
Chart.defaults.animation = false;
Chart.defaults.maintainAspectRatio = false;
Chart.defaults.plugins.legend.labels.usePointStyle = true;
Chart.defaults.plugins.legend.labels.boxHeight = 7;

const figure = (value, unit) => (value === null ? '-' : `${value < 1000 ? Number(value.toPrecision(3)) : Math.round(value)} ${unit}`);

function axis(title, more = {}) {
  return { title: { display: true, text: title }, ...more };
}

// Score against what `cost` names, one colour per mode, the front of the best joined by a line;
// small dots are the same mode in one recording of several.
function scatter(id, cost, title) {
  const points = data.points.filter((p) => p.score !== null && p[cost] !== null);
  const modes = [...new Set(points.map((p) => p.mode))];
  const datasets = modes.map((mode) => ({
    label: mode,
    data: points.filter((p) => p.mode === mode).map((p) => ({ x: p[cost], y: p.score, point: p })),
    backgroundColor: data.colors[mode],
    borderColor: (c) => (c.raw && c.raw.point.pareto ? '#1c1e21' : data.colors[mode]),
    borderWidth: (c) => (c.raw && c.raw.point.pareto ? 2 : 1),
    pointRadius: (c) => (c.raw && c.raw.point.part ? 3 : c.raw && c.raw.point.swept ? 5 : 8),
    pointHoverRadius: 10,
    pointHitRadius: 8,
  }));
  const front = best(points.filter((p) => !p.part), cost);
  if (front.length > 1) {
    datasets.push({
      label: 'nothing better was tried',
      data: front.map((p) => ({ x: p[cost], y: p.score, point: p })),
      type: 'line', borderColor: SOFT, borderDash: [4, 4], borderWidth: 1.5, pointRadius: 0,
      pointHitRadius: 0, pointStyle: 'line', order: 1,
    });
  }
  new Chart(document.getElementById(id), {
    type: 'scatter',
    data: { datasets },
    options: {
      scales: {
        x: axis(title, { beginAtZero: true, grace: '5%' }),
        y: axis(data.score, { grace: '15%' }),
      },
      plugins: {
        tooltip: {
          filter: (item) => item.dataset.type !== 'line',
          callbacks: {
            title: (items) => (items.length ? items[0].raw.point.name : ''),
            label: (item) => describe(item.raw.point),
          },
        },
      },
    },
  });
}

// The points that nothing cheaper beats, cheapest first.
function best(points, cost) {
  const sorted = [...points].sort((a, b) => a[cost] - b[cost] || b.score - a.score);
  let top = -1;
  return sorted.filter((p) => p.score > top && ((top = p.score), true));
}

function describe(p) {
  return [
    `${data.score} ${p.score.toFixed(3)}`,
    `half of the frames within ${figure(p.p50, 'ms')}, 95 of 100 within ${figure(p.p95, 'ms')}`,
    `${figure(p.gmac, 'GMAC')} a frame`,
    `oldest part shown ${figure(p.age, 'ms')}`,
  ];
}

function histogram() {
  const { edges, shares } = data.histogram;
  const middle = (i) => Math.sqrt(edges[i] * edges[i + 1]);
  new Chart(document.getElementById('histogram'), {
    type: 'line',
    data: {
      datasets: Object.entries(shares).map(([mode, values]) => ({
        label: mode,
        data: values.map((share, i) => ({ x: middle(i), y: 100 * share })),
        borderColor: data.colors[mode],
        backgroundColor: `${data.colors[mode]}33`,
        borderWidth: 2, fill: true, stepped: 'middle', pointRadius: 0, pointHitRadius: 6,
        pointStyle: 'rectRounded',
      })),
    },
    options: {
      interaction: { mode: 'index', intersect: false },
      scales: {
        x: axis('time of a step (ms)', {
          type: 'logarithmic',
          min: edges[0],
          max: edges[edges.length - 1],
          ticks: { maxRotation: 0, callback: (v) => (/^[125]e/.test(v.toExponential()) ? `${Number(v.toPrecision(2))}` : '') },
        }),
        y: axis('share of the frames (%)', { beginAtZero: true }),
      },
      plugins: {
        tooltip: {
          filter: (item) => item.parsed.y > 0,
          callbacks: {
            title: (items) => {
              if (!items.length) return '';
              const i = items[0].dataIndex;
              return `${figure(edges[i], '')} to ${figure(edges[i + 1], 'ms')}`;
            },
            label: (item) => `${item.dataset.label}: ${item.parsed.y.toFixed(1)}% of its frames`,
          },
        },
      },
    },
  });
}

const over = (line, name) => line.seconds.map((x, i) => ({ x, y: line[name][i] }));
const known = (line, name) => line[name].some((value) => value !== null);

function lines(id, datasets, y, tooltip = {}) {
  return new Chart(document.getElementById(id), {
    type: 'line',
    data: { datasets },
    options: {
      interaction: { mode: 'index', intersect: false },
      elements: { point: { radius: 0, hitRadius: 4 }, line: { borderWidth: 2 } },
      scales: { x: axis('time in the recording (s)', { type: 'linear', max: end() }), y },
      plugins: { tooltip },
    },
  });
}

const end = () => Math.max(...Object.values(data.timeline).map((line) => line.seconds.at(-1)));
const at = (items) => (items.length ? `${items[0].parsed.x.toFixed(2)} s` : '');

function steps() {
  const datasets = Object.entries(data.timeline).flatMap(([mode, line]) => {
    const drawn = [{ label: mode, data: over(line, 'step'), borderColor: data.colors[mode], pointStyle: 'line' }];
    if (known(line, 'late')) {
      drawn.push({
        label: `${mode}, arrival to mask`, data: over(line, 'late'),
        borderColor: data.colors[mode], borderDash: [3, 3], pointStyle: 'line',
      });
    }
    return drawn;
  });
  lines('steps', datasets, axis('time of the step (ms)', { beginAtZero: true }), {
    callbacks: { title: at, label: (item) => `${item.dataset.label}: ${figure(item.parsed.y, 'ms')}` },
  });
}

function plan(mode) {
  const line = data.timeline[mode];
  const datasets = ACTIONS.map(([key, label, color]) => ({
    label, data: line.seconds.map((x, i) => ({ x, y: line[key][i] === null ? null : 100 * line[key][i] })),
    borderColor: color, backgroundColor: color, fill: true, pointStyle: 'rectRounded', borderWidth: 0.5,
  }));
  return lines('plan', datasets, axis('share of the blocks (%)', { stacked: true, min: 0, max: 100 }), {
    callbacks: {
      title: at,
      label: (item) => `${item.dataset.label}: ${item.parsed.y.toFixed(0)}%`,
      footer: (items) => (items.length ? wrapped(data.reasons[line.reason[items[0].dataIndex]] || '') : ''),
    },
  });
}

// Tooltips do not wrap by themselves, and a phone is narrow.
function wrapped(text) {
  return text.match(/.{1,38}(\s|$)/g) || [];
}

function ages(mode) {
  const line = data.timeline[mode];
  const datasets = [
    { label: 'oldest block', data: over(line, 'oldest'), borderColor: '#b3261e', pointStyle: 'line' },
    { label: 'block in the middle', data: over(line, 'age'), borderColor: '#0072b2', pointStyle: 'line' },
  ];
  return lines('ages', datasets, axis('age (ms)', { beginAtZero: true }), {
    callbacks: { title: at, label: (item) => `${item.dataset.label}: ${figure(item.parsed.y, 'ms')}` },
  });
}

function pick(mode, shown) {
  shown.forEach((chart) => chart.destroy());
  document.querySelectorAll('.mode').forEach((place) => { place.textContent = mode; });
  document.querySelectorAll('#picker button').forEach((button) => {
    button.setAttribute('aria-pressed', String(button.textContent === mode));
  });
  const { frames_per_point: each, dropped } = data.timeline[mode];
  const lost = dropped.reduce((a, b) => a + b, 0);
  document.getElementById('thinned').textContent = [
    each > 1 ? `Each point stands for ${each} frames: the slowest, the oldest, and the mean share.` : '',
    lost ? `${lost} frames were dropped in mode ${mode}; lines go through them.` : '',
  ].join(' ');
  return [plan(mode), ages(mode)];
}

function picker() {
  const modes = Object.keys(data.timeline);
  const place = document.getElementById('picker');
  let shown = [];
  modes.forEach((mode) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = mode;
    button.addEventListener('click', () => { shown = pick(mode, shown); });
    place.append(button);
  });
  shown = pick(data.first, shown);
}

scatter('compute', 'gmac', 'compute (GMAC a frame)');
scatter('latency', 'p95', '95 of 100 frames take at most (ms)');
if (data.histogram.edges.length) histogram();
if (Object.keys(data.timeline).length) {
  steps();
  picker();
}
