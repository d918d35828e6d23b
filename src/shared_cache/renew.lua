-- Renews a lease that is still held. Keys: answer (for the slot), lease. Arguments: the token, which begins as it did
-- before and may end in another way, the lease's milliseconds, the channel, and a message for it or "".
local function holder(token) return type(token) == 'string' and string.match(token, '^%x+') end
if holder(redis.pcall('GET', KEYS[2])) ~= holder(ARGV[1]) then return 'lost' end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
if ARGV[4] ~= '' then redis.call('PUBLISH', ARGV[3], ARGV[4]) end
return 'held'
