-- Everything that is known, at one moment. KEYS: news, rests and their ends, how often each account was forgotten, the
-- name of what is known, then sessions and their ends, again and again. ARGV: a name, in case there is nothing so far.
-- Reply: the name, the last of the news, rests, how often forgotten, then sessions, again and again.
if not redis.call('SET', KEYS[5], ARGV[1], 'NX', 'PX', KEEP_MS) then
  redis.call('PEXPIRE', KEYS[5], KEEP_MS)
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local told = { redis.call('GET', KEYS[5]), last[1] and last[1][1] or '0-0' }
reap(KEYS[2], KEYS[3], -1)
told[#told + 1] = redis.call('HGETALL', KEYS[2])
told[#told + 1] = redis.call('HGETALL', KEYS[4])
for index = 6, #KEYS, 2 do
  reap(KEYS[index], KEYS[index + 1], -1)
  told[#told + 1] = redis.call('HGETALL', KEYS[index])
end
return told
