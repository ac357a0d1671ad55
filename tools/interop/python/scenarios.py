"""Runs the Python package `etcd3` against a server: `scenarios.py HOST:PORT`."""

import queue
import sys
import time

import etcd3

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


def maintenance(client):
    status = client.status()
    assert status.version == "3.7.3" and status.db_size > 0, status.version
    assert [member.name for member in client.members] == ["default"]
    assert list(client.list_alarms()) == []


def main():
    failed = False
    for scenario in (key_values, transactions, watches, compacted_watch, leases, maintenance):
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
