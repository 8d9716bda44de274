-- Records that all processes of a proxy share. KEYS: their hash, with a version that rises with every change.
-- ARGV: a record's name, what is known of it or '', and what it is to be; or the version that is known, alone.
-- Reply: what it is now; or the version, then names and records if it is another.
local key = KEYS[1]
if #ARGV == 1 then
  local version = redis.call('HGET', key, 'version') or '0'
  if version == ARGV[1] then
    return { version }
  end
  local told = { version }
  local known = redis.call('HGETALL', key)
  for index = 1, #known, 2 do
    if known[index] ~= 'version' then
      told[#told + 1] = known[index]
      told[#told + 1] = known[index + 1]
    end
  end
  return told
end
local found = redis.call('HGET', key, ARGV[1]) or ''
if found ~= ARGV[2] then
  return found
end
if ARGV[3] == '' then
  redis.call('HDEL', key, ARGV[1])
else
  redis.call('HSET', key, ARGV[1], ARGV[3])
end
redis.call('HINCRBY', key, 'version', 1)
return ARGV[3]
