"""The Lock and Election services of etcd v3, over the connection of an `etcd3` client, which has neither."""

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_BYTES = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
_INT64 = descriptor_pb2.FieldDescriptorProto.TYPE_INT64
_OPTIONAL = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL

# Messages as far as they are looked at: name -> [(number, field, type or message)].
_MESSAGES = {
    "KeyValue": [(1, "key", _BYTES), (5, "value", _BYTES), (6, "lease", _INT64)],
    "LeaderKey": [(1, "name", _BYTES), (2, "key", _BYTES), (3, "rev", _INT64), (4, "lease", _INT64)],
    "CampaignRequest": [(1, "name", _BYTES), (2, "lease", _INT64), (3, "value", _BYTES)],
    "CampaignResponse": [(2, "leader", "LeaderKey")],
    "ProclaimRequest": [(1, "leader", "LeaderKey"), (2, "value", _BYTES)],
    "LeaderRequest": [(1, "name", _BYTES)],
    "LeaderResponse": [(2, "kv", "KeyValue")],
    "ResignRequest": [(1, "leader", "LeaderKey")],
    "LockRequest": [(1, "name", _BYTES), (2, "lease", _INT64)],
    "LockResponse": [(2, "key", _BYTES)],
    "UnlockRequest": [(1, "key", _BYTES)],
    "Empty": [],
}
LIMIT_SECONDS = 30


def _messages():
    file = descriptor_pb2.FileDescriptorProto(name="contest.proto", package="contest", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind in fields:
            declared = message.field.add(name=field, number=number, label=_OPTIONAL)
            if isinstance(kind, str):
                declared.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
                declared.type_name = f".contest.{kind}"
            else:
                declared.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    factory = message_factory.MessageFactory(pool)
    return {name: factory.GetPrototype(pool.FindMessageTypeByName(f"contest.{name}")) for name in _MESSAGES}


_CLASS = _messages()


def _call(client, service, method, response, **fields):
    request = _CLASS[f"{method}Request"](**fields)
    call = client.channel.unary_unary(
        f"/{service}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=_CLASS[response].FromString,
    )
    return call(request, timeout=LIMIT_SECONDS)


def campaign(client, name, lease, value):
    """Waits for its turn and returns the leader's key."""
    fields = {"name": name.encode(), "lease": lease, "value": value.encode()}
    return _call(client, "v3electionpb.Election", "Campaign", "CampaignResponse", **fields).leader


def campaign_or_error(client, name, lease, value):
    """The whole answer, or the error's text."""
    fields = {"name": name.encode(), "lease": lease, "value": value.encode()}
    try:
        return _call(client, "v3electionpb.Election", "Campaign", "CampaignResponse", **fields)
    except grpc.RpcError as error:
        return error.details()


def proclaim(client, leader, value):
    """Replaces the leader's value."""
    _call(client, "v3electionpb.Election", "Proclaim", "Empty", leader=leader, value=value.encode())


def leader(client, name):
    """The leader's key and value."""
    return _call(client, "v3electionpb.Election", "Leader", "LeaderResponse", name=name.encode()).kv


def leader_or_error(client, name):
    """The leader, or the error's text."""
    try:
        return leader(client, name)
    except grpc.RpcError as error:
        return error.details()


def resign(client, key):
    """Gives the leadership back."""
    _call(client, "v3electionpb.Election", "Resign", "Empty", leader=key)


def lock(client, name, lease):
    """Waits for its turn and returns the key that holds the lock."""
    fields = {"name": name.encode(), "lease": lease}
    return _call(client, "v3lockpb.Lock", "Lock", "LockResponse", **fields).key


def unlock(client, key):
    """Gives a lock back."""
    _call(client, "v3lockpb.Lock", "Unlock", "Empty", key=key)
