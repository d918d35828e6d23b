
-- The replicas. One that was not heard of for a lease is gone. A newcomer is granted nothing until every other replica has said that it
-- knows of it, or its charges could be lost with it.

local ENDED = 16 -- most leases and offers that one step ends
local newcomer = false

local function drop(name)
  local member = record(name)
  if member then
    declare(name, member, {})
    state.offered = state.offered - #member.offers
  end
  records[name] = false
  redis.call('HDEL', MEMBERS, name)
  for _, key in ipairs({ LEASES, SEEN, JOINED, OFFERS }) do redis.call('ZREM', key, name) end
  state.gen = state.gen + 1
  redis.call('ZADD', GONE, state.gen, name)
end

-- What became of the calls of a replica that is gone, nobody will say.
local function lose_probe(name)
  local probe = state.gate and state.gate.probe
  if probe and probe:sub(1, #name + 1) == name .. ':' then
    probe_again(probe)
    wakes['*'] = ''
  end
end

local function end_leases()
  local ended = redis.call('ZRANGEBYSCORE', LEASES, '-inf', '(' .. string.format('%.0f', now), 'LIMIT', 0, ENDED)
  local gone = false
  for _, name in ipairs(ended) do
    if name ~= step.me then
      drop(name)
      lose_probe(name)
      gone = true
    end
  end
  -- If it was the clock that jumped, they are alive, and notice it: newcomers wait for them.
  if gone and redis.call('ZCOUNT', JOINED, '-inf', state.known) == 0 then
    state.alone = now + step.window
    wakes['*'] = ''
  end
end

local function admit()
  local me = record(step.me)
  if me then return me end
  state.gen = state.gen + 1
  me = { joined = state.gen, call = 0, wants = {}, offers = {}, again = true, changed = true }
  newcomer = true
  records[step.me] = me
  redis.call('ZADD', JOINED, state.gen, step.me)
  redis.call('ZREM', GONE, step.me)
  redis.call('ZADD', SEEN, 0, step.me)
  redis.call('SREM', AWAITED, step.me)
  return me
end

-- Everybody is asked to come, but not more often than they can. Returns when to see whether they have.
local function call_all()
  local pause = math.max(50000, 1000 * redis.call('ZCARD', JOINED))
  if now - (state.called or 0) >= pause then
    state.called = now
    wakes['*'] = ''
  end
  return now + 2 * pause
end

-- Members that all others know of by now are told so.
local function acknowledge()
  redis.call('ZADD', SEEN, newcomer and 0 or step.gen, step.me)
  if now < (state.alone or 0) then return end
  local lowest = tonumber(redis.call('ZRANGE', SEEN, 0, 0, 'WITHSCORES')[2])
  if lowest <= state.known then return end
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', JOINED, '(' .. state.known, lowest)) do
    if name ~= step.me then wakes[name] = '' end
  end
  redis.call('ZREMRANGEBYSCORE', GONE, '-inf', lowest)
  state.known = lowest
end

-- It is known as well to all whose copies of the epoch before named the same members as its own.
local function is_known(member)
  return member.joined <= state.known or (member.of ~= nil and member.of == state.agreed)
end

-- What is new of the members to this one: all when it was not told that it is one, since GONE keeps
-- no names for it before that.
local function membership(me, reply)
  reply.gen, reply.replicas = state.gen, redis.call('ZCARD', JOINED)
  if newcomer or step.gen < me.joined then
    reply.members = redis.call('ZRANGE', JOINED, 0, -1)
  elseif step.gen < state.gen then
    local joined = redis.call('ZRANGEBYSCORE', JOINED, '(' .. step.gen, '+inf')
    local left = redis.call('ZRANGEBYSCORE', GONE, '(' .. step.gen, '+inf')
    reply.joined, reply.left = #joined > 0 and joined or nil, #left > 0 and left or nil
  end
end
