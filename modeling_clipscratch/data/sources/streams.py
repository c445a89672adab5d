def shard_rows(stream, shard, state=None):
    one = stream.shard(num_shards=stream.num_shards, index=shard)
    if state: one.load_state_dict(state)
    for row in one: yield row, one.state_dict()
