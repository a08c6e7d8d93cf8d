"""A stock gRPC client that knows nothing of wizefs: it learns the service by reflection, then uses every call.

grpc_client.py ADDRESS [TOKEN CERTIFICATE]; the latter over TLS. Prints one line for each thing that held, and fails with a trace at the first that
does not.
"""

import sys

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

NAME = "wizefsservice.WizeFsService"
ORIGIN = "GRPC1"


class Client:
    """The calls of the service, by what reflection says of them."""

    def __init__(self, channel):
        database = ProtoReflectionDescriptorDatabase(channel)
        assert NAME in database.get_services(), database.get_services()
        pool = descriptor_pool.DescriptorPool(database)
        self.service = pool.FindServiceByName(NAME)
        self.channel = channel

    def method(self, name):
        found = self.service.methods_by_name[name]
        request = message_factory.GetMessageClass(found.input_type)
        reply = message_factory.GetMessageClass(found.output_type)
        kind = {
            (False, False): self.channel.unary_unary,
            (True, False): self.channel.stream_unary,
            (False, True): self.channel.unary_stream,
        }[(found.client_streaming, found.server_streaming)]
        return request, kind(f"/{NAME}/{name}", request_serializer=request.SerializeToString, response_deserializer=reply.FromString)

    def call(self, name, **fields):
        request, call = self.method(name)
        return call(request(**fields))

    def refused(self, name, code, kind, **fields):
        try:
            self.call(name, **fields)
        except grpc.RpcError as error:
            assert error.code() == code, (error.code(), error.details())
            more = dict(error.trailing_metadata() or ()) | dict(error.initial_metadata() or ())
            assert kind is None or more["wizefs-kind"] == kind, more
            return error
        raise AssertionError(f"{name} was not refused")


def fields(message):
    return {field.name: field.number for field in message.fields}


def predecessors_numbers(client):
    two = {"executed": 1, "message": 2}
    shapes = {
        "Create": ({"origin": 1}, two),
        "Put": ({"filename": 1, "content": 2, "origin": 3}, two),
        "Get": ({"filename": 1, "origin": 2}, two | {"content": 3}),
        "Remove": ({"filename": 1, "origin": 2}, two),
    }
    for name, (request, reply) in shapes.items():
        found = client.service.methods_by_name[name]
        assert fields(found.input_type) == request, name
        assert reply.items() <= fields(found.output_type).items(), name
    unary = ["Create", "Delete", "Mount", "Unmount", "Put", "Get", "Remove"]
    assert list(client.service.methods_by_name) == unary + ["PutStream", "GetStream"]


def whole_story(client):
    ok = lambda reply: (reply.executed, reply.message) == (True, "OK")
    assert ok(client.call("Create", origin=ORIGIN))
    client.refused("Create", grpc.StatusCode.ALREADY_EXISTS, "bucket-exists", origin=ORIGIN)
    assert ok(client.call("Mount", origin=ORIGIN))
    client.refused("Mount", grpc.StatusCode.FAILED_PRECONDITION, "already-mounted", origin=ORIGIN)
    stored = client.call("Put", origin=ORIGIN, filename="test.txt", content=b"\0\xff text")
    assert ok(stored) and len(stored.txid) == 64
    got = client.call("Get", origin=ORIGIN, filename="test.txt")
    assert ok(got) and (got.content, got.txid) == (b"\0\xff text", stored.txid)
    # Empty content is an empty file, not a file of the server's.
    assert ok(client.call("Put", origin=ORIGIN, filename="empty"))
    assert client.call("Get", origin=ORIGIN, filename="empty").content == b""
    assert ok(client.call("Put", origin=ORIGIN, filename="deep/er/file", content=b"x"))
    error = client.refused("Get", grpc.StatusCode.NOT_FOUND, "file-missing", origin=ORIGIN, filename="nothing")
    assert error.details() == f"there is no nothing in {ORIGIN}", error.details()
    client.refused("Put", grpc.StatusCode.INVALID_ARGUMENT, "bad-path", origin=ORIGIN, filename="../out", content=b"x")
    client.refused("Create", grpc.StatusCode.INVALID_ARGUMENT, "bucket-name", origin="../out")


def streams(client):
    piece = bytes(range(256)) * 4096
    request, call = client.method("PutStream")
    parts = (request(origin=ORIGIN, filename="large", content=piece) for _ in range(20))
    assert len(call(parts).txid) == 64
    request, call = client.method("GetStream")
    content = b"".join(part.content for part in call(request(origin=ORIGIN, filename="large")))
    assert content == piece * 20
    assert [part.content for part in call(request(origin=ORIGIN, filename="empty"))] == [b""]
    # What one message cannot hold is refused with the way out, also when it is the client that would not take it.
    for size in [(4 << 20) - 1024, 4 << 20]:
        client.call("Put", origin=ORIGIN, filename="edge", content=bytes(size))
        if size < 4 << 20:
            assert len(client.call("Get", origin=ORIGIN, filename="edge").content) == size
    client.refused("Get", grpc.StatusCode.OUT_OF_RANGE, "too-large", origin=ORIGIN, filename="edge")
    for name, more in [("Get", {"filename": "large"}), ("Put", {"filename": "larger", "content": piece * 5})]:
        error = client.refused(name, grpc.StatusCode.OUT_OF_RANGE, None, origin=ORIGIN, **more)
        assert "Stream" in error.details(), error.details()
        more = dict(error.trailing_metadata() or ()) | dict(error.initial_metadata() or ())
        assert (more["wizefs-kind"], more["wizefs-exit"]) == ("too-large", "1"), more
    for parts in [[piece * 5], [b"a", piece * 5]]:
        request, call = client.method("PutStream")
        try:
            call(iter([request(origin=ORIGIN, filename="large", content=part) for part in parts]))
            raise AssertionError("a message that is too large was taken")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.OUT_OF_RANGE, error
    # A stream is of one file.
    request, call = client.method("PutStream")
    for other in [{"filename": "second"}, {"origin": "Other"}]:
        try:
            call(iter([request(origin=ORIGIN, filename="first", content=b"a"), request(content=b"b", **other)]))
            raise AssertionError("two files were stored as one")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    client.refused("Get", grpc.StatusCode.NOT_FOUND, "file-missing", origin=ORIGIN, filename="first")


def broken_stream(client):
    request, call = client.method("PutStream")

    def parts():
        # More than the windows of the connection hold: the server has begun to store it.
        for _ in range(40):
            yield request(origin=ORIGIN, filename="broken", content=bytes(1 << 20))
        raise RuntimeError("the client gives up")

    try:
        call(parts())
        raise AssertionError("a broken stream was stored")
    except grpc.RpcError:
        pass
    client.refused("Get", grpc.StatusCode.NOT_FOUND, "file-missing", origin=ORIGIN, filename="broken")
    _request, call = client.method("PutStream")
    try:
        call(iter(()))
        raise AssertionError("an empty stream was stored")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error


def end(client):
    assert len(client.call("Remove", origin=ORIGIN, filename="test.txt").txid) == 64
    client.refused("Remove", grpc.StatusCode.NOT_FOUND, "file-missing", origin=ORIGIN, filename="test.txt")
    client.refused("Delete", grpc.StatusCode.FAILED_PRECONDITION, "already-mounted", origin=ORIGIN)
    client.call("Unmount", origin=ORIGIN)
    client.refused("Unmount", grpc.StatusCode.FAILED_PRECONDITION, "not-mounted", origin=ORIGIN)
    client.call("Delete", origin=ORIGIN)
    client.refused("Delete", grpc.StatusCode.NOT_FOUND, "bucket-unknown", origin=ORIGIN)


def health(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for name in ["", NAME]:
        reply = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING, (name, reply)


class Token(grpc.AuthMetadataPlugin):
    def __init__(self, token):
        self.token = token

    def __call__(self, context, callback):
        callback((("authorization", "Bearer " + self.token),), None)


def open_channel(options):
    """Plain, or over TLS with the token in each call."""
    address, *protection = sys.argv[1:]
    if not protection:
        return grpc.insecure_channel(address, options=options)
    token, certificate = protection
    with open(certificate, "rb") as file:
        tls = grpc.ssl_channel_credentials(file.read())
    calls = grpc.metadata_call_credentials(Token(token))
    return grpc.secure_channel(address, grpc.composite_channel_credentials(tls, calls), options=options)


def foreign_name():
    # The name that the certificate is looked at for is another matter.
    certified = sys.argv[1].rsplit(":", 1)[0]
    options = [("grpc.default_authority", "evil.example"), ("grpc.ssl_target_name_override", certified)]
    with open_channel(options) as channel:
        try:
            channel.unary_unary(f"/{NAME}/Create")(b"")
            raise AssertionError("a foreign name was let in")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.PERMISSION_DENIED, error


def main():
    with open_channel([("grpc.enable_http_proxy", 0)]) as channel:
        client = Client(channel)
        for step in [predecessors_numbers, whole_story, streams, broken_stream, end]:
            step(client)
            print(step.__name__)
        health(channel)
        print("health")
    foreign_name()
    print("foreign_name")


main()
