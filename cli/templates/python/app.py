def handler(event, context):
    """One event in, one answer out. What it raises is tried again, as weft.toml says."""
    name = (event.get("data") or {}).get("name", "world")
    print(f"greeting {name}, request {context.aws_request_id}")
    return {"greeting": f"hello {name}"}
