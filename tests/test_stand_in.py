"""The stand-in for the game's binary, without SMAC: units by their published numbers, and its websocket."""

import math
import socket
import struct
import threading

import numpy as np
import pytest
from stand_in import wire
from stand_in.battlefield import ATTACK, MOVE, NONE, Battlefield
from stand_in.install import TEAMS
from stand_in.units import FIRST_ALLY_ID, KINDS, LOOPS_PER_S


def field(allies: dict[str, int], enemies: dict[str, int], walls=(), **options) -> Battlefield:
    battle = {"size": [32, 32], "playable": [0, 4, 32, 28], "walls": list(walls), "teams": [allies, enemies]}
    return Battlefield(battle, **options)


def duel(ally: str, enemy: str, x: float = 0.0) -> list[tuple[int, float, float]]:
    """(loop, health, shield) of the enemy after each change, until it is dead; both stand beside one another."""
    arena = field({ally: 1}, {enemy: 1}, enemy="passive")
    arena.at[1] = arena.at[0] + [arena.radius.sum() + x, 0]
    arena.command(arena.tags[0], ATTACK, arena.tags[1])
    seen = [(0, float(arena.health[1]), float(arena.shield[1]))]
    while arena.health[1] > 0:
        arena.step(1)
        if (arena.health[1], arena.shield[1]) != seen[-1][1:]:
            seen.append((arena.loop, float(arena.health[1]), float(arena.shield[1])))
    return seen


def test_a_marine_kills_a_marine_in_eight_shots_of_061_seconds():
    seen = duel("marine", "marine", 5.0)
    assert [health for _, health, _ in seen] == [45, 39, 33, 27, 21, 15, 9, 3, 0]
    times = np.diff([loop for loop, _, _ in seen[1:]]) / LOOPS_PER_S
    assert np.allclose(times, 0.61, atol=1 / LOOPS_PER_S)


def test_shields_take_damage_first_and_armour_is_taken_from_each_hit():
    # A zealot strikes twice for 8; a zealot's hit points have armour 1, its shield none: 50 = 3 x 16 + 2.
    seen = duel("zealot", "zealot", 0.1)
    assert [shield for _, _, shield in seen][:5] == [50, 34, 18, 2, 0]
    assert [health for _, health, _ in seen][3:6] == [100, 100 - (8 - 2 - 1) - 7, 100 - 5 - 3 * 7]


def test_a_bonus_is_for_whom_it_is_meant():
    stalker, zealot = duel("stalker", "stalker", 6.0), duel("stalker", "zealot", 6.0)
    assert stalker[1][2] == 80 - 18 and zealot[1][2] == 50 - 13
    assert duel("colossus", "zergling", 7.0)[1][1] == pytest.approx(35 - 2 * 15, abs=0.02)


def test_a_colossus_burns_a_line_across_its_shot():
    arena = field({"colossus": 1}, {"zergling": 5}, enemy="passive")
    arena.at[1:] = arena.at[0] + [(8, 0), (8, 1.4), (8, -1.4), (8, 2.5), (10, 0)]
    arena.command(arena.tags[0], ATTACK, arena.tags[1])
    arena.step(1)
    assert arena.health[1:].tolist() == pytest.approx([5, 5, 5, 35, 35], abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_units_walk_at_their_speed_and_only_where_they_may(kind):
    arena = field({kind: 1}, {"marine": 1}, enemy="passive")
    start = arena.at[0].copy()
    arena.command(arena.tags[0], MOVE, goal=(start[0], start[1] + 5))
    arena.step(16)
    assert math.isclose(arena.at[0, 1] - start[1], 16 / LOOPS_PER_S * KINDS[kind].speed, rel_tol=1e-9)
    arena.command(arena.tags[0], MOVE, goal=[start[0], 40])
    arena.step(300)
    assert 27 < arena.at[0, 1] < 28


def test_who_is_out_of_range_walks_until_it_is_not():
    arena = field({"marine": 1}, {"marine": 1}, enemy="passive")
    arena.command(arena.tags[0], ATTACK, arena.tags[1])
    arena.step(200)
    assert arena.at[1, 0] - arena.at[0, 0] == pytest.approx(5 + 2 * 0.375, abs=1e-6)


def test_shields_come_back_after_7_seconds_and_zerg_heal():
    arena = field({"zealot": 1}, {"zergling": 1}, enemy="passive")
    arena.shield[0], arena.health[1], arena.calm[0] = 10, 10, 0
    arena.step(math.floor(7.14 * LOOPS_PER_S))
    assert arena.shield[0] == 10 and arena.health[1] == pytest.approx(10 + 0.38 * 7.14, rel=1e-2)
    arena.step(round(3 * LOOPS_PER_S))
    assert arena.shield[0] == pytest.approx(16, rel=0.02) and arena.shield[0] > 15.5


def test_the_computer_attacks_the_nearest_and_its_team_wins_against_one_that_stands():
    arena = field({"marine": 3}, {"marine": 3})
    arena.step(400)
    assert not arena.health[:3].any() and (arena.health[3:] == 45).all()


def test_when_all_are_dead_both_teams_are_created_again_with_new_tags():
    arena = field({"stalker": 2, "zealot": 3}, {"stalker": 2, "zealot": 3}, spawn_delay=3)
    tags, places = list(arena.tags), arena.at.copy()
    assert arena.types == [FIRST_ALLY_ID] * 2 + [FIRST_ALLY_ID + 1] * 3 + [74] * 2 + [73] * 3
    arena.step(40)
    arena.kill([*tags, 7])
    arena.step(2)
    assert not arena.health.any()
    arena.step(1)
    assert (arena.health > 0).all() and not set(tags) & set(arena.tags) and np.array_equal(arena.at, places)
    assert arena.command(tags[0], MOVE, goal=(0, 0)) is False and arena.command(arena.tags[0], NONE)


def test_units_do_not_stand_in_one_another():
    arena = field(*TEAMS["2c_vs_64zg"])
    arena.step(60)
    alive = arena.at[(arena.health > 0) & (arena.owner == 2)]
    gaps = np.hypot(*(alive[:, None] - alive[None]).transpose(2, 0, 1))[~np.eye(len(alive), dtype=bool)]
    assert gaps.min() > 0.3 and np.quantile(gaps.reshape(len(alive), -1).min(1), 0.1) > 0.5


def test_a_websocket_message_crosses_whole():
    ours, theirs = socket.socketpair()
    bodies = [b"", b"a" * 125, b"b" * 126, b"c" * 70_000]

    def serve() -> None:
        websocket = wire.Websocket(theirs, "/sc2api")
        while (message := websocket.receive()) is not None:
            websocket.send(message)

    ours.settimeout(5)
    theirs.settimeout(5)
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with ours, theirs:
        # RFC 6455, section 1.3: this key has this answer.
        ours.sendall(b"GET /sc2api HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        stream = ours.makefile("rb")
        head = [stream.readline() for _ in range(5)]
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
        for body in bodies:
            size = len(body)
            length = (
                bytes([0x80 | size]) if size < 126
                else bytes([0x80 | 126]) + struct.pack(">H", size) if size < 65536
                else bytes([0x80 | 127]) + struct.pack(">Q", size)
            )  # fmt: skip
            mask = b"\x01\x02\x03\x04"
            ours.sendall(b"\x82" + length + mask + bytes(x ^ mask[i % 4] for i, x in enumerate(body)))
            width = {126: 2, 127: 8}.get((first := stream.read(2))[1], 0)
            assert first[0] == 0x82 and (int.from_bytes(stream.read(width), "big") if width else first[1]) == size
            assert stream.read(size) == body
        ours.sendall(b"\x88\x80\0\0\0\0")
        assert stream.read(2) == b"\x88\0"
        thread.join(5)
        stream.close()
