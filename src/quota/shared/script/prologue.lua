-- The shared ledger: one atomic step of one replica, decided with the server's clock.
--
-- KEYS  state (packed, of fixed size), past (charge -> counted at), flying (charge -> latest arrival), log (charge -> number of its last
--       change), format (the version of these, while anything of it counts);
--       members (name -> packed), leases (-> until), seen (-> the last change of the membership that it told it knows), joined (-> number of
--       that change), gone (the same), awaited (those whose charges are missing after the store forgot);
--       waits (what waits, by flow and deadline), flows (-> tag), infos (-> packed), idle (-> tag of its last service), offers (member -> until);
--       the ledger of the format before this one (state, past, flying, log);
--       returns (who is expected back, by flow and member -> due)
-- ARGV  the step, JSON. Times in it are microseconds before or after now: no replica's clock is believed, only its stopwatch.
--
-- The guarantee is `room`: a call goes only while fewer than L charges are inside W, for every limit. Everything else is courtesy.
local STATE, PAST, FLYING, LOG, FORMAT = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local MEMBERS, LEASES, SEEN, JOINED, GONE, AWAITED = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local WAITS, FLOWS, INFOS, IDLE, OFFERS, RETURNS = KEYS[12], KEYS[13], KEYS[14], KEYS[15], KEYS[16], KEYS[21]
local step = cjson.decode(ARGV[1])
-- A store whose memory is full refuses a script's first write if that can need memory, and none
-- after it. This one needs none, so the quota goes on there; a ledger that somebody comes to has no
-- lifetime anyway.
local had_lifetime = redis.call('PERSIST', STATE) == 1
local raw = redis.call('GET', STATE)
local state = raw and cmsgpack.unpack(raw)
local wakes = {}

local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local server = redis.call('INFO', 'server')
-- Found as plain text: a pattern would be tried at every place of this long text, in every step.
local _, before_run = string.find(server, 'run_id:', 1, true)
local run = string.match(server, '^%w+', before_run + 1)
-- The clock never runs backwards: when the server's is set back, the difference is kept.
local now = clock + (state and state.shift or 0)
if state and now < state.last then
  state.shift = state.last - clock
  now = state.last
end

local function count(key) return redis.call('ZCARD', key) end

-- A key of ours was evicted or deleted, this data was written by another server, or the server went
-- back to older data of its own: calls may be missing.
local function counts()
  return {
    count(PAST), count(FLYING), count(LOG), redis.call('HLEN', MEMBERS), count(LEASES), count(SEEN), count(JOINED),
    count(WAITS), count(FLOWS), redis.call('HLEN', INFOS),
  }
end

-- The record of this member.
local function own_record()
  local packed = redis.call('HGET', MEMBERS, step.me)
  return packed and cmsgpack.unpack(packed)
end

local function is_lost()
  if not state or state.run ~= run or step.doubt == state.epoch then return true end
  -- Numbers only grow, so nobody knows a higher one than the latest.
  if (step.epochs or 0) > (state.epochs or 0) then return true end
  if step.epoch == state.epoch then
    if step.seq > state.seq or step.gen > state.gen then return true end
    -- The others may have caught up with these numbers since, but not with this member's own.
    local me = own_record()
    if me and me.call < (step.heard or 0) then return true end
  end
  for n, size in ipairs(counts()) do
    if state.counts[n] ~= size then return true end
  end
  return false
end

-- The bucket: see pacer.rs, of which this is the shared form.
local function fill()
  -- An earlier version could leave a debt, which nobody has to pay.
  state.level = math.min(step.burst, math.max(0, state.level + state.rate * math.max(0, now - state.at)))
  state.at = now
end

-- Without pacing only the windows hold calls back; but a slow start goes on to its end.
local function is_unpaced() return step.unpaced and now >= (state.paced_till or 0) end
local function paced() return state.paced_till and state.paced_till > now and state.paced_till - now or nil end
