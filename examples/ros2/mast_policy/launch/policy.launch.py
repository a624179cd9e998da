"""One robot's policy: ros2 launch mast_policy policy.launch.py policy:=/path/robot1.mast robot:=robot1 rate:=10"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

DEFAULTS = Path(__file__).resolve().parent.parent / "config" / "policy.yaml"
ARGUMENTS = {
    "policy": ("", "a .mast file"),
    "agent": ("0", "which agent of the file"),
    "rate": ("10.0", "decisions a second"),
    "max_age": ("0.5", "seconds after which an observation is too old"),
    "autostart": ("true", "false: a lifecycle manager starts the node"),
}


def generate_launch_description():
    """The node in the robot's namespace; it is started again two seconds after it has died."""
    others = {"robot": ("robot", "its namespace"), "parameters": (str(DEFAULTS), "a file of them, for the rest")}
    declared = [
        DeclareLaunchArgument(name, default_value=value, description=text)
        for name, (value, text) in (others | ARGUMENTS).items()
    ]
    node = Node(
        package="mast_policy",
        executable="policy_node",
        namespace=LaunchConfiguration("robot"),
        parameters=[LaunchConfiguration("parameters"), {name: LaunchConfiguration(name) for name in ARGUMENTS}],
        respawn=True,
        respawn_delay=2.0,
        output="screen",
    )
    return LaunchDescription([*declared, node])
