"""A stand-in for StarCraft II's binary: `SC2_x64 -listen 127.0.0.1 -port N -dataDir FOLDER ...`, one game, one client.

It speaks s2clientprotocol over a websocket, as s2client-proto/docs/protocol.md says, as far as SMAC needs: create and
join a game, observe, command units, kill them, save a replay, quit. FOLDER/script.json says what goes wrong in it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import time
from pathlib import Path
from typing import Any

from s2clientprotocol import error_pb2, raw_pb2, sc2api_pb2  # pyright: ignore[reportMissingImports]

from stand_in.battlefield import ALLY, ATTACK, MOVE, NONE, Battlefield
from stand_in.wire import Websocket

ABILITIES = {16: MOVE, 23: ATTACK, 4: NONE}
"""Move, attack and stop: s2client-proto, stableid.json."""
PATHING_IN_BITS = 70000
"""From about this build on a pathing grid has a bit a cell, from the south, 1 where units walk; before, a byte a cell,
from the north, 255 where they do not. SMAC reads both."""
IN_GAME = ("game_info", "observation", "action", "step", "debug", "save_replay")


class Game:
    """What the requests are answered from. A request that is not valid in this state is answered with an error."""

    def __init__(self, folder: Path, build: int) -> None:
        """folder: SC2PATH. Reads script.json there.

        enemy, spawn_delay: see Battlefield. late: loops before the last unit of the map is there. crash_at, hang_at:
        the loop. crash_after_kill: the kind of request, the first of which after units were killed it does not survive.
        """
        self.folder, self.build = folder, build
        path = folder / "script.json"
        self.script = json.loads(path.read_text()) if path.exists() else {}
        self.status = sc2api_pb2.launched
        self.field: Any = None
        self.map_path, self.seed = "", 0
        self._battle: Any = None
        self._killed = False

    def answer(self, request: Any) -> Any:
        """A Response to a Request."""
        kind = request.WhichOneof("request")
        if self._killed and kind == self.script.get("crash_after_kill"):
            self._crash()
        response = sc2api_pb2.Response(id=request.id)
        handler = getattr(self, "_" + str(kind), None)
        if handler is None or (kind in IN_GAME and self.status != sc2api_pb2.in_game):
            response.error.append(f"{kind} is not supported in state {self.status}")
        else:
            handler(getattr(request, kind), getattr(response, kind))
            getattr(response, kind).SetInParent()
        response.status = self.status
        return response

    def _ping(self, request: Any, response: Any) -> None:
        response.game_version, response.base_build = "0.0.0", self.build

    def _create_game(self, request: Any, response: Any) -> None:
        kinds = sorted(player.type for player in request.player_setup)
        try:
            self._battle = json.loads(request.local_map.map_data.decode())
        except ValueError:
            response.error = sc2api_pb2.ResponseCreateGame.InvalidMapData
            return
        if kinds != [sc2api_pb2.Participant, sc2api_pb2.Computer]:
            response.error = sc2api_pb2.ResponseCreateGame.InvalidPlayerSetup
            return
        self.map_path, self.seed = request.local_map.map_path, request.random_seed
        self.status = sc2api_pb2.init_game

    def _join_game(self, request: Any, response: Any) -> None:
        if self.status != sc2api_pb2.init_game or not request.options.raw:
            response.error = sc2api_pb2.ResponseJoinGame.MissingOptions
            return
        self.field = Battlefield(
            self._battle,
            self.script.get("enemy", "attack"),
            self.script.get("spawn_delay", 1),
            random.Random(self.seed),
        )
        response.player_id, self.status = ALLY, sc2api_pb2.in_game

    def _game_info(self, request: Any, response: Any) -> None:
        start, field = response.start_raw, self.field
        response.map_name = Path(self.map_path).stem
        start.map_size.x, start.map_size.y = field.size
        area = start.playable_area
        area.p0.x, area.p0.y, area.p1.x, area.p1.y = field.playable
        north_first = field.pathing.T[::-1]
        grid = start.pathing_grid
        grid.size.x, grid.size.y = field.size
        if self.build >= PATHING_IN_BITS:
            cells = "".join("01"[int(cell)] for cell in field.pathing.T.flatten())
            grid.bits_per_pixel, grid.data = 1, int(cells, 2).to_bytes(len(cells) // 8, "big")
        else:
            grid.bits_per_pixel, grid.data = 8, bytes(0 if cell else 255 for cell in north_first.flatten())
        height = start.terrain_height
        height.bits_per_pixel, height.data = 8, bytes(127 if cell else 200 for cell in north_first.flatten())
        height.size.x, height.size.y = field.size

    def _observation(self, request: Any, response: Any) -> None:
        seen, field = response.observation, self.field
        seen.game_loop = field.loop
        late = field.loop - field.born < self.script.get("late", 0)
        for i, kind in enumerate(field.kinds):
            if field.health[i] <= 0 or (late and i == len(field.kinds) - 1):
                continue
            own = field.owner[i] == ALLY
            unit = seen.raw_data.units.add(
                display_type=raw_pb2.Visible,
                alliance=raw_pb2.Self if own else raw_pb2.Enemy,
                tag=field.tags[i],
                unit_type=field.types[i],
                owner=int(field.owner[i]),
                radius=kind.radius,
                build_progress=1.0,
                health=float(field.health[i]),
                health_max=kind.health,
            )
            unit.pos.x, unit.pos.y, unit.pos.z = float(field.at[i, 0]), float(field.at[i, 1]), 10.0
            if kind.shield:
                unit.shield, unit.shield_max = float(field.shield[i]), kind.shield
            if own:
                unit.weapon_cooldown = float(field.cooldown[i])

    def _action(self, request: Any, response: Any) -> None:
        for action in request.actions:
            command, done = action.action_raw.unit_command, True
            order = ABILITIES.get(command.ability_id)
            for tag in command.unit_tags:
                goal = command.target_world_space_pos
                point = (goal.x, goal.y) if command.HasField("target_world_space_pos") else None
                done &= order is not None and self.field.command(tag, order, command.target_unit_tag, point)
            response.result.append(error_pb2.Success if done else error_pb2.Error)

    def _step(self, request: Any, response: Any) -> None:
        before = self.field.loop
        self.field.step(request.count or 1)
        response.simulation_loop = self.field.loop
        if before < self.script.get("hang_at", -1) <= self.field.loop:
            time.sleep(3600)
        if before < self.script.get("crash_at", -1) <= self.field.loop:
            self._crash()

    def _crash(self) -> None:
        """Once for all the games that are started from one folder."""
        mark = self.folder / "crashed"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def _debug(self, request: Any, response: Any) -> None:
        for command in request.debug:
            if command.HasField("kill_unit"):
                self.field.kill(command.kill_unit.tag)
                self._killed = True

    def _save_replay(self, request: Any, response: Any) -> None:
        response.data = json.dumps({"map": self.map_path, "seed": self.seed, "loops": self.field.loop}).encode()


def main(executable: str) -> None:
    """Serve one client until it quits or goes away."""
    parser = argparse.ArgumentParser(prefix_chars="-", allow_abbrev=False)
    for name in ("-listen", "-port", "-dataDir", "-tempDir", "-dataVersion"):
        parser.add_argument(name)
    given, _ = parser.parse_known_args()
    folder, build = Path(given.dataDir), int(Path(executable).parent.name[len("Base") :])
    (folder / "games").mkdir(exist_ok=True)
    (folder / "games" / str(os.getpid())).touch()
    print(f"Version: B{build} (stand-in)", flush=True)  # the game chats on its standard output
    with socket.create_server((given.listen, int(given.port))) as server:
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                websocket = Websocket(connection, "/sc2api")
                break
            except ConnectionError:
                connection.close()
    game = Game(folder, build)
    while True:
        message = websocket.receive()
        if message is None:
            return
        request = sc2api_pb2.Request.FromString(message)
        if request.WhichOneof("request") == "quit":
            return
        websocket.send(game.answer(request).SerializeToString())
