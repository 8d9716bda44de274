-- The time all replicas agree on: the server's, in milliseconds, and in microseconds to tell replies apart.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local moment = clock[1] * 1000000 + clock[2]
