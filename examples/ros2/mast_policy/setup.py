"""ament_python: colcon build puts the node, its launch file and its parameters where ROS 2 looks for them."""

from setuptools import setup

NAME = "mast_policy"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", ["launch/policy.launch.py"]),
        (f"share/{NAME}/config", ["config/policy.yaml"]),
    ],
    install_requires=["setuptools", "mast-runtime"],
    license="Apache-2.0",
    entry_points={"console_scripts": [f"policy_node = {NAME}.node:main"]},
)
