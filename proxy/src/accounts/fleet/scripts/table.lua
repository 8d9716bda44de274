-- A table is a hash and a sorted set of its fields by when they end, in Unix milliseconds. Nothing lives here for ever:
-- keys that nobody uses any more end by themselves.
local KEEP_MS = 864000000

local function text(number)
  return string.format('%.0f', number)
end

local function drop(hash, ends, field)
  redis.call('HDEL', hash, field)
  redis.call('ZREM', ends, field)
end

-- Forgets what has ended: at most count fields.
local function reap(hash, ends, count)
  for _, field in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', text(now), 'LIMIT', 0, count)) do
    drop(hash, ends, field)
  end
end

-- Keeps a field until a time; the ones that end first leave when there are more than most.
local function put(hash, ends, field, value, until_ms, most)
  redis.call('HSET', hash, field, value)
  redis.call('ZADD', ends, text(until_ms), field)
  local beyond = redis.call('ZCARD', ends) - most
  if beyond > 0 then
    for _, first in ipairs(redis.call('ZRANGE', ends, 0, beyond - 1)) do
      drop(hash, ends, first)
    end
  end
  redis.call('PEXPIRE', hash, KEEP_MS)
  redis.call('PEXPIRE', ends, KEEP_MS)
end

-- Says something to every replica, in the one order in which all of them hear it.
local function tell(news, kind, name, value)
  redis.call('XADD', news, 'MAXLEN', '~', 8192, '*', 'kind', kind, 'name', name, 'value', value)
  redis.call('PEXPIRE', news, KEEP_MS)
end
