
-- Nothing is granted until the replicas have brought their copies.
local function begin_epoch(before)
  -- The answer to a probe may never be heard of here; without one, the next call finds out.
  local gate = before.gate
  if gate and gate.probe then gate = { till = now } end
  state = {
    epoch = step.nonce, run = run, doubted = step.doubt ~= nil and step.doubt == before.epoch or nil,
    shift = before.shift, seq = before.seq, keep = before.keep, most = before.most,
    merging = now + step.window, copies = 0, gen = 0, known = 0, offered = 0,
    level = 0, rate = 0, at = now, plan = 0, gate = gate, foreign = before.foreign, told = before.told,
    slow = before.slow, paced_till = before.paced_till,
    trimmed = before.seq + 1, began = now,
    clock = 0, keys = {}, clocks = {}, flows = {}, sums = {},
  }
  state.epochs = math.max(before.epochs or 0, step.epochs or 0) + 1
  for class = 1, 8 do
    state.keys[class], state.clocks[class], state.flows[class] = 0, 0, 0
    state.sums[class] = { n = 0, w = 0, q = 0, r = 0, a = 0 }
  end
  redis.call('DEL', MEMBERS, LEASES, SEEN, JOINED, GONE, AWAITED, WAITS, FLOWS, INFOS, IDLE, OFFERS, RETURNS)
  wakes['*'] = ''
end

local function note(id)
  state.seq = state.seq + 1
  redis.call('ZADD', LOG, state.seq, id)
end

-- The later time counts. `ZADD` has `GT` for this from Redis 6.2 on only.
local function keep_later(key, at, id)
  local known = redis.call('ZSCORE', key, id)
  if not known or at > tonumber(known) then redis.call('ZADD', key, at, id) end
end

local function count_at(id, at)
  redis.call('ZREM', FLYING, id)
  keep_later(PAST, at, id)
  if state.gate and state.gate.probe == id then state.gate = nil end
  note(id)
end

local function forget(key, ids)
  for _, id in ipairs(ids) do
    redis.call('ZREM', key, id)
    redis.call('ZREM', LOG, id)
  end
end

local function sweep()
  local due = redis.call('ZRANGEBYSCORE', FLYING, '-inf', now, 'WITHSCORES')
  for i = 1, #due, 2 do count_at(due[i], tonumber(due[i + 1])) end
  forget(PAST, redis.call('ZRANGEBYSCORE', PAST, '-inf', now - state.keep))
  local over = count(PAST) - state.most
  if over > 0 then forget(PAST, redis.call('ZRANGE', PAST, 0, over - 1)) end
  -- Charges that were taken back stay in the log for replicas to hear of; only so many.
  local tombs = count(LOG) - 4 * state.most - 1000
  if tombs > 0 then
    state.trimmed = tonumber(redis.call('ZRANGE', LOG, tombs - 1, tombs - 1, 'WITHSCORES')[2])
    redis.call('ZREMRANGEBYRANK', LOG, 0, tombs - 1)
  end
end

-- The calls that will still be inside the window at that moment, of those known now.
local function used(limit, at)
  return count(FLYING) + redis.call('ZCOUNT', PAST, '(' .. string.format('%.0f', (at or now) - limit.hold), '+inf')
end

local function room()
  local least = math.huge
  for _, limit in ipairs(step.limits) do least = math.min(least, limit.calls - used(limit)) end
  return least
end

-- When the n-th next call has room, as far as known; nil when only an answer can tell.
local function opening(n)
  local at = now
  for _, limit in ipairs(step.limits) do
    local free = limit.calls - count(FLYING) - n + 1
    if free <= 0 then return nil end
    local entry = redis.call('ZREVRANGE', PAST, free - 1, free - 1, 'WITHSCORES')
    if entry[2] then at = math.max(at, tonumber(entry[2]) + limit.hold) end
  end
  return at
end

local function upset() state.plan = 0 end

local function take(id)
  if state.level >= step.burst then upset() end
  state.level = math.max(state.level - 1, 0)
  redis.call('ZADD', FLYING, now + step.attempt, id)
  note(id)
  if state.slow then state.slow.issued, state.slow.latest = state.slow.issued + 1, now end
  if state.gate and state.gate.till then state.gate = { probe = id } end
end

-- A replica whose machine was suspended may have made its call after the charge had ended by itself.
local function settle(id, age)
  local at = now - age
  local is_late = at > now - state.keep and at > tonumber(redis.call('ZSCORE', PAST, id) or 0) + 1000000
  if is_late or redis.call('ZSCORE', FLYING, id) then count_at(id, now - age) end
end

-- The probe brings no answer, so another call has to find out.
local function probe_again(id)
  if state.gate and state.gate.probe == id then state.gate = { till = now } end
end

-- A call that has ended without an answer does not hold back those after a refusal.
local function not_accepted(latest)
  local slow = state.slow
  if slow and tonumber(latest) - step.attempt >= (slow.since or 0) then slow.issued = math.max(slow.issued - 1, 0) end
end

local function lose(id)
  probe_again(id)
  local latest = redis.call('ZSCORE', FLYING, id)
  if latest then not_accepted(latest) end
end

local function refund(id)
  local latest = redis.call('ZSCORE', FLYING, id)
  if latest then
    redis.call('ZREM', FLYING, id)
    note(id)
    state.level = math.min(state.level + 1, step.burst)
    not_accepted(latest)
    upset()
    probe_again(id)
  end
end

-- A replica's copy: the latest that anybody knows of a charge counts.
local function merge(copy)
  for _, entry in ipairs(copy.charges or {}) do
    local id, kind, offset = entry[1], entry[2], entry[3]
    if kind == 2 then
      count_at(id, now - offset)
    else
      -- A clock that jumped has ended calls before their time. Whose call it is knows better, and so
      -- do all who noticed the jump.
      if state.doubted or string.sub(id, 1, #step.me + 1) == step.me .. ':' then redis.call('ZREM', PAST, id) end
      if not redis.call('ZSCORE', PAST, id) then
        keep_later(FLYING, now + offset, id)
        note(id)
      end
    end
  end
  if copy.pause then
    local till = now + copy.pause
    if not (state.gate and state.gate.till and state.gate.till > till) then state.gate = { till = till } end
  end
  if copy.paced then state.paced_till = math.max(state.paced_till or 0, now + copy.paced) end
  upset()
  if not state.merging then return false end
  state.copies, state.copied = state.copies + 1, now
  state.of = state.of or copy.of
  if copy.of and copy.of == state.of then state.same = (state.same or 0) + 1 end
  local at = now - copy.age
  if not copy.members then
    -- Its own charges are here. The whole copy is asked for when it is fresher than those that were
    -- asked for before, and once more when the answer that asked for it did not arrive.
    local is_wanted = at > (state.asked_for or 0) or state.asked_of == step.me
    if is_wanted then state.asked_for, state.asked_of = math.max(at, state.asked_for or 0), step.me end
    return is_wanted
  end
  if state.asked_of == step.me then state.asked_of = nil end
  if not state.best or at > state.best.at then
    state.best = { at = at, level = copy.level }
    redis.call('DEL', AWAITED)
    for _, name in ipairs(copy.members) do
      if not redis.call('ZSCORE', JOINED, name) then redis.call('SADD', AWAITED, name) end
    end
  end
  return false
end

-- Every charge was granted before the freshest copy was taken, and is in it, or to a replica that this copy names: see shared/mod.rs.
-- A copy that was asked for is fresher than any before it.
local function is_complete()
  return state.best and not state.asked_of and state.best.at >= now - step.lease and redis.call('SCARD', AWAITED) == 0
end

-- Whether the bucket was never filled anew since the freshest copy was taken: that takes an epoch in which nobody brought one.
local function is_recent() return state.best and now - state.best.at <= step.window end

-- Charges the most that can have been granted and is known to nobody.
local function assume()
  if state.copies == 0 then
    if step.past == 'empty' then state.level = step.burst end
    if step.past == 'paced' then
      state.level = math.floor(step.burst / 10)
      state.paced_till = now + step.attempt + step.limits[#step.limits].hold
    end
    if step.past == 'full' then
      for i = 1, state.most do count_at(state.epoch .. '~' .. i, now + step.attempt) end
    end
    return
  end
  if not state.best then
    -- Replicas that had copies came and went before they brought them.
    for i = 1, state.most do count_at(state.epoch .. '~' .. i, now) end
    return
  end
  local longest, gap = step.limits[#step.limits], now - state.best.at
  -- What the bucket held by a recent copy, or can have held, and what it got since: no rate is above the long window's, and a trial of an
  -- estimate lets a hundredth of it go besides. Without pacing as many can have been granted as the windows had room for.
  local held = is_recent() and math.min(step.burst, state.best.level or step.burst) or step.burst
  local got = longest.calls / longest.hold * gap + longest.calls / 100
  local unknown = step.unpaced and math.huge or math.ceil(held + got) + 1
  for _, limit in ipairs(step.limits) do
    if gap <= limit.hold then unknown = math.min(unknown, limit.calls - used(limit)) end
  end
  for i = 1, math.min(unknown, state.most) do count_at(state.epoch .. '~' .. i, now) end
end

-- The bucket goes on from what the freshest copy saw in it, less the calls that were granted since.
local function restore_level()
  local best = state.best
  if not (best and best.level) then return end
  local since = redis.call('ZCOUNT', FLYING, '(' .. string.format('%.0f', best.at + step.attempt), '+inf')
    + redis.call('ZCOUNT', PAST, '(' .. string.format('%.0f', best.at), now)
  state.level, state.at = math.max(0, math.min(best.level - since, step.burst)), now
end

-- With a recent copy to go on from, those who are still missing are waited for half as long: what they may have been granted is charged. But
-- while copies come in, the others are on their way, as when hundreds bring theirs.
local function merge_ends()
  if not is_recent() then return state.merging end
  return math.min(state.merging, math.max(state.merging - step.window / 2, state.copied + step.window / 10))
end

local function end_merge()
  local complete = is_complete()
  if not complete and now < merge_ends() then return end
  restore_level()
  if not complete then assume() end
  -- When all who can have a copy have come, and their copies name the same members, each of these is known to all.
  state.agreed = complete and state.copies == state.same and state.of or nil
  state.merging, state.best, state.asked_for, state.asked_of, state.copied, state.of, state.same = nil, nil, nil, nil, nil, nil, nil
  redis.call('DEL', AWAITED)
  upset()
  wakes['*'] = ''
end
