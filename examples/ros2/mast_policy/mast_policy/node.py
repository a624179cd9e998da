"""A ROS 2 lifecycle node around one robot's policy: it decides at a fixed rate on the newest observation, or says stop.

ros2 run mast_policy policy_node --ros-args -p policy:=policy.mast -p agent:=0 -p rate:=10

Subscribes observation and available_actions (std_msgs/UInt8MultiArray, optional: all are), publishes action
(std_msgs/Int32; -1: stop) and /diagnostics, and offers reset (std_srvs/Trigger), to be called at an episode's start.
Continuous actions are std_msgs/Float32MultiArray in the units of their bounds, and a stop is the parameter stop_action.
"""

import signal
import time
from array import array
from importlib import import_module

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from std_msgs.msg import Float32MultiArray, Int32, UInt8MultiArray
from std_srvs.srv import Trigger

import mast_runtime
from mast_runtime.control import STOP, Counts, Rounds, Supervisor, checked_stop

LOG_EVERY_S = 5.0
PARAMETERS = {
    "policy": ("policy.mast", "a .mast file"),
    "agent": (0, "which agent of the file this robot is"),
    "rate": (10.0, "decisions a second: the environment's steps a second"),
    "max_age": (0.5, "seconds after which an observation is too old"),
    "observation_type": ("std_msgs/msg/Float32MultiArray", "the message of the topic observation"),
    "observation_field": ("data", "its field that holds the observation, a sequence of numbers"),
    "stop_action": ("", "of continuous actions, which one stops the robot: a list of numbers in their units"),
    "autostart": (True, "whether the node configures and activates itself"),
    "diagnostics_period": (1.0, "seconds between two messages on /diagnostics"),
}
"""Name -> default, whose type is the parameter's, and what it is. Read when the node is configured."""


class PolicyNode(LifecycleNode):
    """Configured: the policy is loaded and listens. Active: it decides. Any way out of active publishes a stop."""

    def __init__(self):
        super().__init__("mast_policy")
        for name, (default, text) in PARAMETERS.items():
            # dynamic: rate:=10 is a whole number to ROS, which would refuse it for a float
            self.declare_parameter(name, default, ParameterDescriptor(description=text, dynamic_typing=True))
        self.steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.counts, self.supervisor, self.active, self.lates = Counts(), None, False, 0
        self.entities, self.quiet_until_s = [], {}

    def setting(self, name):
        """A parameter in its default's type. Raises ValueError."""
        given, kind = self.get_parameter(name).value, type(PARAMETERS[name][0])
        if kind is float and type(given) is int:
            return float(given)
        if type(given) is not kind:
            names = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
            raise ValueError(f"parameter {name} is {given!r}, expected {names[kind]}")
        return given

    def on_configure(self, state):
        """Load the policy and listen. Whatever is wrong with a parameter or the file ends in one line and FAILURE."""
        try:
            self.configure()
        except (mast_runtime.RuntimeFault, ValueError, IndexError, OSError, ImportError) as error:
            self.get_logger().error(f"cannot be configured: {error}")
            self.release()
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def configure(self):
        agent = mast_runtime.load(self.setting("policy")).agent(self.setting("agent"))
        self.counts = Counts()
        self.rounds = Rounds(self.setting("rate"), self.counts)
        self.stop = stop_of(agent, self.get_parameter("stop_action").value)
        self.supervisor = Supervisor(agent, self.setting("max_age"), self.counts, stop_action=self.stop)
        self.available = None
        self.field = self.setting("observation_field")
        message = find_message(self.setting("observation_type"), self.field)
        self.stamped = hasattr(message(), "header")
        self.action = Int32 if self.stop is None else Float32MultiArray
        self.actions = self.create_publisher(self.action, "action", 1)
        self.diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        observations = self.create_subscription(message, "observation", self.see, qos_profile_sensor_data)
        available = self.create_subscription(UInt8MultiArray, "available_actions", self.allow, qos_profile_sensor_data)
        reports = self.create_timer(self.setting("diagnostics_period"), self.report, clock=self.steady)
        self.timer = self.create_timer(self.rounds.period_s, self.decide, clock=self.steady, autostart=False)
        self.entities = [
            (self.destroy_publisher, self.actions),
            (self.destroy_publisher, self.diagnostics),
            (self.destroy_subscription, observations),
            (self.destroy_subscription, available),
            (self.destroy_service, self.create_service(Trigger, "reset", self.reset)),
            (self.destroy_timer, reports),
            (self.destroy_timer, self.timer),
        ]
        self.get_logger().info(
            f"agent {agent.index} of {self.setting('policy')} on {agent.backend}, {self.setting('rate'):g} a second"
        )

    def release(self):
        for destroy, entity in self.entities:
            destroy(entity)
        self.entities, self.supervisor = [], None

    def on_activate(self, state):
        """A new episode begins."""
        self.supervisor.reset()
        self.rounds.restart()
        self.active = True
        self.timer.reset()
        return super().on_activate(state)

    def on_deactivate(self, state):
        self.halt()
        return super().on_deactivate(state)

    def on_cleanup(self, state):
        self.release()
        return super().on_cleanup(state)

    def on_shutdown(self, state):
        self.halt()
        self.release()
        return super().on_shutdown(state)

    def on_error(self, state):
        self.halt()
        self.release()
        return super().on_error(state)

    def halt(self):
        """Publish a stop, and wait a moment until it has arrived. Nothing where the node is not active."""
        if self.active:
            self.active = False
            self.timer.cancel()
            self.publish(STOP if self.stop is None else self.stop)
            self.actions.wait_for_all_acked(Duration(seconds=0.5))

    def see(self, message):
        """The newest observation, as old as its stamp says, where it has one; an array of float32 is taken as it is."""
        data, age_s = getattr(message, self.field), 0.0
        if self.stamped and (message.header.stamp.sec or message.header.stamp.nanosec):
            age_s = (self.get_clock().now() - Time.from_msg(message.header.stamp)).nanoseconds / 1e9
            if age_s < -self.supervisor.max_age_s:
                self.complain(
                    "stamp", f"an observation is stamped {-age_s:.2f} s ahead of this clock: are the clocks together?"
                )
                return
        data = data if isinstance(data, array) and data.typecode == "f" else array("f", data)
        self.supervisor.observe(data, max(age_s, 0.0))

    def allow(self, message):
        """The actions that may be chosen from now on."""
        self.available = message.data

    def reset(self, request, response):
        """Forget the episode, and what was seen in it."""
        self.supervisor.reset()
        response.success = True
        return response

    def decide(self):
        """One decision, or a stop."""
        self.rounds.begin()
        self.publish(self.supervisor.decide(self.available))
        if self.supervisor.kind:
            self.complain(self.supervisor.kind, f"stopped: {self.supervisor.trouble}")
        self.rounds.end()

    def publish(self, action):
        """An action's number, or its components."""
        self.actions.publish(self.action(data=action if self.action is Int32 else array("f", action)))

    def complain(self, kind, text):
        """Log a kind of trouble at once, and again every LOG_EVERY_S while it lasts."""
        now_s = time.monotonic()
        if now_s >= self.quiet_until_s.get(kind, now_s):
            self.quiet_until_s[kind] = now_s + LOG_EVERY_S
            self.get_logger().warning(text)

    def report(self):
        """What the robot's monitors read: stopped is an error, deadlines missed since the last time a warning."""
        late, self.lates = self.counts.late - self.lates, self.counts.late
        if not self.active:
            level, text = DiagnosticStatus.WARN, "inactive"
        elif self.supervisor.trouble:
            level, text = DiagnosticStatus.ERROR, f"stopped: {self.supervisor.trouble}"
        elif late:
            level, text = DiagnosticStatus.WARN, f"{late} deadlines missed"
        else:
            level, text = DiagnosticStatus.OK, "deciding"
        counts = self.counts
        values = {name: getattr(counts, name) for name in ("decisions", "missing", "stale", "refused", "late")}
        values["longest_gap_ms"] = f"{1e3 * counts.longest_gap_s:.1f}"
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        array.status = [
            DiagnosticStatus(
                level=level,
                name=f"{self.get_fully_qualified_name()}: policy",
                message=text,
                hardware_id=self.get_namespace().strip("/"),
                values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
            )
        ]
        self.diagnostics.publish(array)


def stop_of(agent, given):
    """What stops a robot of continuous actions; None where actions are choices.

    given: a list, one number, or numbers as text. Raises ValueError, RuntimeFault.
    """
    numbers = given.split() if isinstance(given, str) else [given] if isinstance(given, (int, float)) else list(given)
    if agent.contract.head is None:
        if numbers:
            raise ValueError(f"parameter stop_action is {given!r}: this policy chooses among actions; its stop is -1")
        return None
    if not numbers:
        low, high = agent.contract.head.bounds(agent.index)
        bounds = " ".join(f"[{a:g}, {b:g}]" for a, b in zip(low, high, strict=True))
        raise ValueError(f"parameter stop_action: which action stops the robot is yours to say, one within {bounds}")
    return checked_stop(agent, numbers)


def find_message(name, field):
    """The class of package/msg/Type, which has such a field. Raises ValueError, ImportError."""
    package, _, kind = name.partition("/msg/")
    found = getattr(import_module(f"{package}.msg"), kind, None) if kind else None
    if found is None:
        raise ValueError(f"observation_type {name!r}: expected a message, for example sensor_msgs/msg/JointState")
    if not str(found.get_fields_and_field_types().get(field)).startswith("sequence<"):
        raise ValueError(f"observation_field {field!r}: {name} has no such sequence")
    return found


def main(args=None):
    """Spin until SIGINT or SIGTERM; the last message is a stop. Exit code 2 where the node cannot start."""
    signalled = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: signalled.append(number))
    # rclpy's own handlers would close the context before the stop is published
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node = PolicyNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.setting("autostart"):
            started = node.trigger_configure() == TransitionCallbackReturn.SUCCESS
            if not started or node.trigger_activate() != TransitionCallbackReturn.SUCCESS:
                return 2
        while not signalled:
            executor.spin_once(timeout_sec=0.1)
    except ValueError as error:
        node.get_logger().error(str(error))
        return 2
    finally:
        node.halt()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
