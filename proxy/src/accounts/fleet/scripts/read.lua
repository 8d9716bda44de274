-- Everything that is known, at one moment. KEYS: news, rests and their ends, how often each account was forgotten, then
-- sessions and their ends, again and again.
-- Reply: the last of the news, rests, how often forgotten, then sessions, again and again.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local told = { last[1] and last[1][1] or '0-0' }
reap(KEYS[2], KEYS[3], -1)
told[#told + 1] = redis.call('HGETALL', KEYS[2])
told[#told + 1] = redis.call('HGETALL', KEYS[4])
for index = 5, #KEYS, 2 do
  reap(KEYS[index], KEYS[index + 1], -1)
  told[#told + 1] = redis.call('HGETALL', KEYS[index])
end
return told
