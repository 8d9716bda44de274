-- Everything that is counted of an owner. KEYS: its hash and leases. ARGV: memory in milliseconds when a snapshot
-- names it, which keeps it, or 0. Reply: the time, then fields and values.
reap(KEYS[1], KEYS[2])
if ARGV[1] ~= '0' then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[1])
end
local told = { now, moment }
local known = redis.call('HGETALL', KEYS[1])
for index = 1, #known, 2 do
  if string.find(known[index], '^[stobu]:') then
    told[#told + 1] = known[index]
    told[#told + 1] = known[index + 1]
  end
end
return told
