"""A ROS 2 node around one robot's policy: it decides at a fixed rate on the newest observation, or says stop.

python examples/ros2_node.py --ros-args -p policy:=policy.mast -p agent:=0 -p rate:=10.0

Subscribes observation (std_msgs/Float32MultiArray) and available_actions (std_msgs/UInt8MultiArray, optional: all are),
publishes action (std_msgs/Int32; -1: stop), and offers reset (std_srvs/Trigger), to be called at an episode's start.
"""

import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from std_msgs.msg import Float32MultiArray, Int32, UInt8MultiArray
from std_srvs.srv import Trigger

import mast_runtime

STOP = -1


class PolicyNode(Node):
    """Parameters: policy (a .mast file), agent, rate in Hz (the environment's steps a second), max_age in s."""

    def __init__(self):
        super().__init__("mast_policy")
        path = self.declare_parameter("policy", "policy.mast").value
        self.agent = mast_runtime.load(path).agent(self.declare_parameter("agent", 0).value)
        self.max_age = self.declare_parameter("max_age", 0.5).value
        self.observation, self.seen, self.available = None, None, None
        self.create_subscription(Float32MultiArray, "observation", self.see, qos_profile_sensor_data)
        self.create_subscription(UInt8MultiArray, "available_actions", self.allow, qos_profile_sensor_data)
        self.actions = self.create_publisher(Int32, "action", 1)
        self.create_service(Trigger, "reset", self.reset)
        self.create_timer(1.0 / self.declare_parameter("rate", 10.0).value, self.decide)

    def see(self, message):
        """The newest observation, an array of float32, which `act` takes as it is."""
        self.observation, self.seen = message.data, self.get_clock().now()

    def allow(self, message):
        """The actions that may be chosen from now on."""
        self.available = message.data

    def reset(self, request, response):
        """Forget the episode."""
        self.agent.reset()
        response.success = True
        return response

    def decide(self):
        """One decision; stop where the observation is missing, too old or refused."""
        action, age = STOP, None
        if self.seen is not None:
            age = (self.get_clock().now() - self.seen).nanoseconds / 1e9
        if age is None or age > self.max_age:
            self.get_logger().warning(
                "no observation yet" if age is None else f"the last observation is {age:.2f} s old"
            )
        else:
            try:
                action = self.agent.act(self.observation, self.available)
            except mast_runtime.ObservationError as error:
                self.get_logger().error(str(error))
        self.actions.publish(Int32(data=action))


def main():
    rclpy.init()
    node = PolicyNode()
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
