-- Renews leases of open holds. KEYS: an owner's hash and leases. ARGV: lease and memory in milliseconds, holds.
for index = 3, #ARGV do
  redis.call('ZADD', KEYS[2], 'XX', text(now + tonumber(ARGV[1])), ARGV[index])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return now
