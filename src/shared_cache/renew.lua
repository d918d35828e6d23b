-- Renews a lease that is still held. Keys: answer (for the slot), lease. Arguments: the token, the lease's milliseconds.
if redis.pcall('GET', KEYS[2]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  return 'held'
end
return 'lost'
