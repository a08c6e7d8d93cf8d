"""What schemathesis asks is kept away from the rest of the machine, and led to what there is."""

import schemathesis

# A log that is followed has no end; what is adopted, read as a passphrase, or mounted upon is the machine of whoever runs this.
NEVER = {"follow", "from", "passfile", "mountpoint"}
# Tried on names that are made up alone: the others have to find something.
ENDS = {"/v1/buckets/{bucket}", "/buckets/{bucket}"}


def without(node):
    """Take what is never asked for out of objects, wherever they stand."""
    if isinstance(node, list):
        for each in node:
            without(each)
    elif isinstance(node, dict):
        for name in NEVER & node.get("properties", {}).keys():
            del node["properties"][name]
        for each in node.values():
            without(each)


@schemathesis.hook
def before_load_schema(context, raw_schema):
    without(raw_schema["components"])
    for path, operations in raw_schema["paths"].items():
        for method, operation in operations.items():
            operation["parameters"] = [p for p in operation.get("parameters", []) if p["name"] not in NEVER]
            for parameter in operation["parameters"]:
                there = {"bucket": ["docs", "work"], "path": ["a/b.txt", "a"]}.get(parameter["name"])
                if there and parameter["in"] == "path" and not (method == "delete" and path in ENDS):
                    parameter["schema"] = {"anyOf": [{"enum": there}, parameter["schema"]]}
