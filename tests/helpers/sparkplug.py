"""Payloads of Sparkplug B by Google's protocol buffers, with which our own reading of them is compared."""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TYPES = {
    "uint64": 4, "bool": 8, "string": 9, "bytes": 12, "uint32": 13, "float": 2, "double": 1,
}  # fmt: skip
# The name, number and type of each field; * stands for repeated, | for one of the values.
_MESSAGES = {
    "PropertyValue": "type 1 uint32, is_null 2 bool, int_value 3 uint32|, long_value 4 uint64|, float_value 5 float|, "
    "double_value 6 double|, boolean_value 7 bool|, string_value 8 string|",
    "PropertySet": "keys 1 string*, values 2 PropertyValue*",
    "DataSet": "num_of_columns 1 uint64, columns 2 string*, types 3 uint32*",
    "Metric": "name 1 string, alias 2 uint64, timestamp 3 uint64, datatype 4 uint32, is_historical 5 bool, "
    "is_transient 6 bool, is_null 7 bool, properties 9 PropertySet, int_value 10 uint32|, long_value 11 uint64|, "
    "float_value 12 float|, double_value 13 double|, boolean_value 14 bool|, string_value 15 string|, "
    "bytes_value 16 bytes|, dataset_value 17 DataSet|",
    "Payload": "timestamp 1 uint64, metrics 2 Metric*, seq 3 uint64, uuid 4 string, body 5 bytes",
}


def _payload_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="sparkplug_test.proto", package="sparkplug_test", syntax="proto2")
    for message, fields in _MESSAGES.items():
        descriptor = file.message_type.add(name=message)
        if "|" in fields:
            descriptor.oneof_decl.add(name="value")
        for text in fields.split(", "):
            name, number, kind = text.split(" ")
            field = descriptor.field.add(name=name, number=int(number), label=3 if kind.endswith("*") else 1)
            if kind.endswith("|"):
                field.oneof_index = 0
            kind = kind.rstrip("*|")
            field.type = _TYPES.get(kind, 11)
            if kind not in _TYPES:
                field.type_name = f".sparkplug_test.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sparkplug_test.Payload"))


Payload = _payload_class()
