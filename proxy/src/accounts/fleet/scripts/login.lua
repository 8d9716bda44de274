-- Takes the sole right to renew a login, keeps it, or, for 0 ms, gives it back. KEYS: the right. ARGV: process, for how
-- many milliseconds. Reply: 1 when the process had it or has it now.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
