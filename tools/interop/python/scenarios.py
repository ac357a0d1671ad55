"""Runs the Python package `etcd3` against a server: `scenarios.py HOST:PORT`."""

import queue
import sys
import threading
import time

import etcd3

import contest

LIMIT_SECONDS = 15


def connect(endpoint):
    host, port = endpoint.rsplit(":", 1)
    return etcd3.client(host=host, port=int(port), timeout=LIMIT_SECONDS)


def key_values(client):
    client.delete_prefix("py/kv/")
    client.put("py/kv/a", "1")
    value, metadata = client.get("py/kv/a")
    assert value == b"1" and metadata.key == b"py/kv/a", (value, metadata.key)
    assert metadata.version == 1 and metadata.create_revision == metadata.mod_revision
    response = client.put("py/kv/a", "2", prev_kv=True)
    assert response.prev_kv.value == b"1", response
    client.put("py/kv/b", "3")
    pairs = [(metadata.key, value) for value, metadata in client.get_prefix("py/kv/")]
    assert pairs == [(b"py/kv/a", b"2"), (b"py/kv/b", b"3")], pairs
    ordered = [value for value, _ in client.get_prefix("py/kv/", sort_order="descend", sort_target="key")]
    assert ordered == [b"3", b"2"], ordered
    keys = [metadata.key for _, metadata in client.get_range("py/kv/a", "py/kv/b")]
    assert keys == [b"py/kv/a"], keys
    assert client.get("py/kv/missing") == (None, None)
    assert client.delete("py/kv/a") is True
    assert client.delete("py/kv/a") is False
    assert client.delete_prefix("py/kv/").deleted == 1


def transactions(client):
    client.delete_prefix("py/txn/")
    client.put("py/txn/a", "1")
    succeeded, responses = client.transaction(
        compare=[client.transactions.value("py/txn/a") == "1", client.transactions.version("py/txn/a") > 0],
        success=[client.transactions.put("py/txn/a", "2"), client.transactions.get("py/txn/a")],
        failure=[client.transactions.delete("py/txn/a")],
    )
    assert succeeded is True
    assert responses[1][0][0] == b"2", responses
    succeeded, _ = client.transaction(
        compare=[client.transactions.mod("py/txn/a") == 1],
        success=[],
        failure=[client.transactions.delete("py/txn/a")],
    )
    assert succeeded is False
    assert client.get("py/txn/a")[0] is None
    assert client.put_if_not_exists("py/txn/b", "first") is True
    assert client.put_if_not_exists("py/txn/b", "second") is False
    assert client.replace("py/txn/b", "first", "third") is True
    assert client.replace("py/txn/b", "first", "fourth") is False
    assert client.get("py/txn/b")[0] == b"third"


def watches(client):
    client.delete_prefix("py/watch/")
    events = queue.Queue()

    def collect(response):
        for event in response.events:
            events.put(event)

    watch_id = client.add_watch_prefix_callback("py/watch/", collect, prev_kv=True)
    client.put("py/watch/a", "1")
    client.put("py/watch/a", "2")
    client.delete("py/watch/a")
    seen = [events.get(timeout=LIMIT_SECONDS) for _ in range(3)]
    assert [type(event).__name__ for event in seen] == ["PutEvent", "PutEvent", "DeleteEvent"], seen
    assert seen[1].prev_value == b"1" and seen[2].prev_value == b"2", seen
    first = seen[0].mod_revision
    client.cancel_watch(watch_id)
    client.put("py/watch/a", "after")
    iterator, cancel = client.watch_prefix("py/watch/", start_revision=first)
    again = [next(iterator) for _ in range(4)]
    cancel()
    assert [event.value for event in again] == [b"1", b"2", b"", b"after"], again
    assert [event.mod_revision for event in again] == [first, first + 1, first + 2, first + 3], again


def compacted_watch(client):
    client.put("py/compacted", "1")
    revision = client.get("py/compacted")[1].mod_revision
    client.put("py/compacted", "2")
    client.compact(revision + 1)
    iterator, cancel = client.watch("py/compacted", start_revision=revision)
    try:
        event = next(iterator)
    except etcd3.exceptions.RevisionCompactedError as error:
        assert error.compacted_revision == revision + 1, error.compacted_revision
    else:
        raise AssertionError(f"a compacted watch gave {event}")
    finally:
        cancel()


def leases(client):
    client.delete_prefix("py/lease/")
    lease = client.lease(600)
    client.put("py/lease/a", "1", lease=lease)
    assert lease.granted_ttl == 600 and 590 < lease.remaining_ttl <= 600
    assert list(lease.keys) == [b"py/lease/a"], lease.keys
    (answer,) = lease.refresh()
    assert answer.TTL == 600, answer
    lease.revoke()
    assert client.get("py/lease/a") == (None, None)
    short = client.lease(2)
    client.put("py/lease/b", "1", lease=short)
    begin = time.monotonic()
    while client.get("py/lease/b")[0] is not None:
        assert time.monotonic() - begin < LIMIT_SECONDS, "a lease of 2 s does not expire"
        time.sleep(0.05)
    assert time.monotonic() - begin > 1.5, "a lease of 2 s expired early"


def lock_handed_over(client):
    """A waiter gets the lock when its holder gives it back, and nobody can give back another's lock."""
    first, second = client.lock("py/handed", ttl=60), client.lock("py/handed", ttl=60)
    assert first.acquire() and first.is_acquired()
    assert second.acquire(timeout=0.2) is False and not second.is_acquired()
    assert second.release() is False, "gave back what it does not hold"
    taken = queue.Queue()
    waiter = threading.Thread(target=lambda: taken.put(second.acquire(timeout=LIMIT_SECONDS)))
    waiter.start()
    time.sleep(0.3)
    assert taken.empty(), "two holders"
    assert first.release() is True
    assert taken.get(timeout=LIMIT_SECONDS) is True
    waiter.join()
    assert second.is_acquired() and not first.is_acquired()
    assert second.release() is True
    with client.lock("py/handed") as held:
        assert held.is_acquired()
    assert client.get("/locks/py/handed") == (None, None)


def lock_of_a_lost_session(client):
    """A holder that does not renew loses the lock, one that does keeps it, and one whose lease is revoked is out."""
    lost, next_one = client.lock("py/lost", ttl=2), client.lock("py/lost", ttl=60)
    begin = time.monotonic()
    assert lost.acquire()
    while time.monotonic() - begin < 3:
        lost.refresh()
        assert lost.is_acquired(), "lost while it was renewed"
        time.sleep(0.5)
    silent = time.monotonic()
    assert next_one.acquire(timeout=LIMIT_SECONDS)
    assert time.monotonic() - silent > 1, "taken from a session that was alive"
    assert not lost.is_acquired() and lost.release() is False and next_one.is_acquired()
    (answer,) = lost.refresh()
    assert answer.TTL == 0, answer
    client.revoke_lease(next_one.lease.id)
    assert not next_one.is_acquired()
    assert lost.acquire() and lost.release()


def lock_contenders(_):
    """
    Twenty clients take turns; never two at once, and everybody has a turn.

    The lock of this package has no queue: whoever asks first after a release has it, so no order can be asked for.
    A release between an attempt and the watch that follows is missed by it, hence short attempts.
    """
    count, turns, inside, faults = 20, [], [], []

    def contend(number):
        client = connect(sys.argv[1])
        try:
            lock = client.lock("py/contended", ttl=60)
            while not lock.acquire(timeout=1):
                pass
            inside.append(number)
            value = int(client.get("py/turns")[0])
            time.sleep(0.002)
            if inside != [number]:
                faults.append(f"{inside} at once")
            client.put("py/turns", str(value + 1))
            turns.append(number)
            inside.remove(number)
            if not lock.release():
                faults.append(f"{number} has lost the lock")
        except Exception as error:  # told by the main thread
            faults.append(f"{number}: {type(error).__name__}: {error}")
        finally:
            client.close()

    client = connect(sys.argv[1])
    client.put("py/turns", "0")
    threads = [threading.Thread(target=contend, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * LIMIT_SECONDS)
    assert not faults, faults
    assert sorted(turns) == list(range(count)), turns
    assert client.get("py/turns")[0] == str(count).encode()
    client.close()


def elections(client):
    """
    The package has no elections; over its connection the server's Election service is fair: the order is that of
    coming, a candidate whose lease ends is skipped, and a leader whose lease ends is followed by the next.
    """
    leases = [client.lease(600) for _ in range(5)]
    first = contest.campaign(client, "py/election", leases[0].id, "candidate 0")
    led = queue.Queue()
    for number in range(1, 5):
        arguments = (client, "py/election", leases[number].id, f"candidate {number}")
        thread = threading.Thread(
            target=lambda number, arguments: led.put((number, contest.campaign_or_error(*arguments))),
            args=(number, arguments),
            daemon=True,
        )
        thread.start()
        key = f"py/election/{leases[number].id:x}"
        while client.get(key) == (None, None):
            time.sleep(0.01)
    assert contest.leader(client, "py/election").value == b"candidate 0"
    assert led.empty()
    leases[2].revoke()
    contest.proclaim(client, first, "still there")
    assert contest.leader(client, "py/election").value == b"still there"
    contest.resign(client, first)
    order = [led.get(timeout=LIMIT_SECONDS)]
    leases[1].revoke()
    # Both who are told now: one has lost its session, one leads.
    order += [led.get(timeout=LIMIT_SECONDS) for _ in range(2)]
    leading = [number for number, answer in order if hasattr(answer, "leader") and number != 2]
    assert leading == [1, 3], order
    assert contest.leader(client, "py/election").value == b"candidate 3"
    leases[3].revoke()
    number, answer = led.get(timeout=LIMIT_SECONDS)
    assert number == 4 and answer.leader.lease == leases[4].id, (number, answer)
    contest.resign(client, answer.leader)
    error = contest.leader_or_error(client, "py/election")
    assert error == "election: no leader", error


def lock_service(client):
    """The server's Lock service over the same connection: a queue, so the order is that of coming."""
    leases = [client.lease(600) for _ in range(8)]
    held = contest.lock(client, "py/queue", leases[0].id)
    turns, threads = queue.Queue(), []

    def wait(lease):
        key = contest.lock(client, "py/queue", lease)
        turns.put(lease)
        contest.unlock(client, key)

    for lease in leases[1:]:
        thread = threading.Thread(target=wait, args=(lease.id,), daemon=True)
        thread.start()
        threads.append(thread)
        while client.get(f"py/queue/{lease.id:x}") == (None, None):
            time.sleep(0.01)
    assert turns.empty(), "two holders"
    contest.unlock(client, held)
    order = [turns.get(timeout=LIMIT_SECONDS) for _ in leases[1:]]
    for thread in threads:
        thread.join(LIMIT_SECONDS)
    assert order == [lease.id for lease in leases[1:]], order


def maintenance(client):
    status = client.status()
    assert status.version == "3.7.3" and status.db_size > 0, status.version
    assert [member.name for member in client.members] == ["default"]
    assert list(client.list_alarms()) == []


def end_of_a_thread(problem):
    """The package's own threads learn by an error that their connection was closed."""
    if not (problem.thread and problem.thread.name.startswith("etcd3_watch_")):
        threading.__excepthook__(problem)


def main():
    failed = False
    threading.excepthook = end_of_a_thread
    scenarios = (
        key_values,
        transactions,
        watches,
        compacted_watch,
        leases,
        lock_handed_over,
        lock_of_a_lost_session,
        lock_contenders,
        lock_service,
        elections,
        maintenance,
    )
    for scenario in scenarios:
        client = connect(sys.argv[1])
        try:
            scenario(client)
        except Exception as error:  # each scenario is judged alone
            failed = True
            print(f"FAILED {scenario.__name__}: {type(error).__name__}: {error}")
        else:
            print(f"ok     {scenario.__name__}")
        finally:
            client.close()
    sys.exit(failed)


if __name__ == "__main__":
    main()
