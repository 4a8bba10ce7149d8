"""Start the segmentation node on a camera: `ros2 launch seg_node segmentation.launch.py -s`.

An argument that is left empty changes nothing: the parameter file decides. The transport setting
that lets large images arrive on one machine is put into the environment of what this file starts
and of what is included after it, unless the user has chosen one (docs/transport.md).
"""

from __future__ import annotations

from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from seg_node.ros.transport import transport_environment

CONFIG = Path(__file__).parents[1] / "config"
NAME = "segmentation"
OPTIONAL_BOOL = ["", "true", "false"]
SHOWN = ("overlay", "plan/image", "age/image", "mask", "confidence")
"""Topics of the node in the view for rviz."""


def arguments() -> list[DeclareLaunchArgument]:
    """Return the arguments of this file, as `ros2 launch ... --show-args` lists them."""
    presets = ", ".join(sorted(path.stem for path in CONFIG.glob("*.yaml")))
    return [
        DeclareLaunchArgument(
            "image",
            default_value="image",
            description="Topic of the camera's images, such as /front/image_raw. With the "
            "parameter input.transport: compressed, the topic without its /compressed.",
        ),
        DeclareLaunchArgument(
            "camera_info",
            default_value="",
            description="Topic of the calibration; empty: camera_info beside the image topic.",
        ),
        DeclareLaunchArgument(
            "namespace",
            default_value="",
            description=f"Namespace of the node: front publishes /front/{NAME}/mask.",
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value="default",
            description=f"A preset of this package ({presets}), or the path of a parameter file.",
        ),
        DeclareLaunchArgument(
            "model",
            default_value="",
            description="Shipped model or manifest file (*.json); empty: as in params_file.",
        ),
        DeclareLaunchArgument(
            "device",
            default_value="",
            description="auto, cpu, cuda or cuda:N; empty: as in params_file.",
        ),
        DeclareLaunchArgument(
            "autostart",
            default_value="",
            choices=OPTIONAL_BOOL,
            description="Whether the node configures and activates itself; empty: as in "
            "params_file, which is true unless it says otherwise.",
        ),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value="",
            choices=OPTIONAL_BOOL,
            description="Whether time comes from /clock, as in simulation or with ros2 bag play "
            "--clock; empty: as in params_file.",
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            choices=["debug", "info", "warn", "error", "fatal"],
            description="Least severe message that the node logs.",
        ),
        DeclareLaunchArgument(
            "rviz",
            default_value="false",
            choices=["true", "false"],
            description="Whether to show overlay, plan and age in rviz2.",
        ),
    ]


def parameter_file(name: str) -> str:
    """Return the path of a preset or of the user's own parameter file.

    Raises:
        RuntimeError: there is no such file; the text lists the presets.

    """
    preset = CONFIG / f"{name}.yaml"
    path = preset if preset.is_file() else Path(name).expanduser()
    if not path.is_file():
        presets = ", ".join(sorted(p.stem for p in CONFIG.glob("*.yaml")))
        msg = f"params_file is {name!r}: neither a file nor one of the presets {presets}"
        raise RuntimeError(msg)
    return str(path)


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Return the actions that the values of the arguments ask for."""
    given = {
        argument.name: LaunchConfiguration(argument.name).perform(context)
        for argument in arguments()
    }
    texts = {
        name: ParameterValue(given[name], value_type=str)
        for name in ("model", "device")
        if given[name]
    }
    switches = {
        name: given[name] == "true" for name in ("autostart", "use_sim_time") if given[name]
    }
    image = given["image"]
    beside = f"{image.rpartition('/')[0]}/camera_info" if "/" in image else "camera_info"
    setting = transport_environment(context.environment)
    actions: list[LaunchDescriptionEntity] = [
        SetEnvironmentVariable(name, value) for name, value in setting.items()
    ]
    actions.append(
        LifecycleNode(
            package="seg_node",
            executable="segmentation_node",
            name=NAME,
            namespace=given["namespace"],
            parameters=[parameter_file(given["params_file"]), {**texts, **switches}],
            remappings=[("image", image), ("camera_info", given["camera_info"] or beside)],
            ros_arguments=["--log-level", given["log_level"]],
            output="screen",
            emulate_tty=True,
        )
    )
    if given["rviz"] == "true":
        actions.append(rviz(given["namespace"], image, switches))
    return actions


def rviz(namespace: str, image: str, switches: dict[str, bool]) -> Node:
    """Return rviz2 with the shipped view, its topics moved to the node's and the camera's."""
    sim_time = {key: value for key, value in switches.items() if key == "use_sim_time"}
    return Node(
        package="rviz2",
        executable="rviz2",
        name=f"{NAME}_rviz",
        arguments=["-d", str(CONFIG / f"{NAME}.rviz")],
        parameters=[sim_time],
        remappings=list(view_topics(namespace, image).items()),
    )


def view_topics(namespace: str, image: str) -> dict[str, str]:
    """Return where the topics of the view for rviz are, those left out that are where it says."""
    prefix = f"/{namespace.strip('/')}" if namespace.strip("/") else ""
    topics = {f"/{NAME}/{name}": f"{prefix}/{NAME}/{name}" for name in SHOWN}
    topics["/image"] = image if image.startswith("/") else f"{prefix}/{image}"
    return {shown: topic for shown, topic in topics.items() if shown != topic}


def generate_launch_description() -> LaunchDescription:
    """Return the arguments, and the node that they describe."""
    return LaunchDescription([*arguments(), OpaqueFunction(function=start)])
