-- For tests: the time is what a key says.
local now = tonumber(redis.call('GET', string.match(KEYS[1], '^{[^}]*}') .. ':clock'))
local moment = redis.call('INCR', string.match(KEYS[1], '^{[^}]*}') .. ':moment')
