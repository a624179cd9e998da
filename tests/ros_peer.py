"""A robot's other processes, as a policy node sees them; `continuous`: actions are. Runs in an environment with rclpy.

Commands and answers are lines of JSON. {"publish": values, "topic": ..., "type": ..., "field": ..., "age": s}: one;
{"listen": seconds}: what comes in that time; {"call": service}: std_srvs/Trigger; {"transition": id}: of the lifecycle.
"""

import json
import os
import sys
import time
from array import array
from importlib import import_module

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rclpy.duration import Duration
from rclpy.qos import qos_profile_sensor_data
from std_msgs.msg import Float32MultiArray, Int32
from std_srvs.srv import Trigger

NAMES = {
    "observation": ("std_msgs", "Float32MultiArray", "f"),
    "available_actions": ("std_msgs", "UInt8MultiArray", "B"),
}


class Peer:
    def __init__(self):
        self.node = rclpy.create_node("peer")
        self.actions, self.diagnosed, self.publishers = [], [], {}
        kind = Float32MultiArray if "continuous" in sys.argv else Int32
        self.node.create_subscription(kind, "action", self.hear, 100)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.diagnose, 100)

    def hear(self, message):
        data = message.data
        self.actions.append((time.monotonic(), data if isinstance(data, int) else list(data)))

    def diagnose(self, message):
        self.diagnosed += [(ord(s.level), s.message, {v.key: v.value for v in s.values}) for s in message.status]

    def publish(self, values, topic="observation", type=None, field="data", age=None):
        package, kind, code = NAMES[topic]
        if type:
            (package, kind), code = type, "d"
        made = getattr(import_module(f"{package}.msg"), kind)
        if topic not in self.publishers:
            self.publishers[topic] = publisher = self.node.create_publisher(made, topic, qos_profile_sensor_data)
            limit = time.monotonic() + 5.0
            while not publisher.get_subscription_count() and time.monotonic() < limit:
                rclpy.spin_once(self.node, timeout_sec=0.02)
            time.sleep(0.3)  # the other side has to find this one too, or loses what it is sent
        message = made(**{field: array(code, values)})
        if age is not None:
            message.header.stamp = (self.node.get_clock().now() - Duration(seconds=age)).to_msg()
        self.publishers[topic].publish(message)

    def listen(self, seconds):
        self.actions, self.diagnosed = [], []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            rclpy.spin_once(self.node, timeout_sec=0.02)
        return {"actions": self.actions, "diagnosed": self.diagnosed}

    def call(self, kind, name, request):
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(5.0), name
        future = client.call_async(request)
        rclpy.spin_until_future_complete(self.node, future, timeout_sec=5.0)
        return future.result().success


def main():
    rclpy.init()
    peer = Peer()
    for line in sys.stdin:
        command, answer = json.loads(line), None
        if "publish" in command:
            answer = peer.publish(command.pop("publish"), **command)
        elif "listen" in command:
            answer = peer.listen(command["listen"])
        elif "call" in command:
            answer = peer.call(Trigger, command["call"], Trigger.Request())
        else:
            request = ChangeState.Request()
            request.transition.id = command["transition"]
            answer = peer.call(ChangeState, "mast_policy/change_state", request)
        print(json.dumps(answer), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
