-- The shared ledger: one atomic step of one replica, decided with the server's clock.
--
-- KEYS  state (packed), past (charge -> counted at), flying (charge -> latest arrival), log (charge -> number of its last change),
--       format (the version of these, while anything of it counts)
-- ARGV  the step, JSON. Times in it are microseconds before or after now: no replica's clock is believed, only its stopwatch.
--
-- The guarantee is `room`: a call goes only while fewer than L charges are inside W, for every limit. Everything else is courtesy.
local STATE, PAST, FLYING, LOG, FORMAT = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local step = cjson.decode(ARGV[1])
-- Calls of replicas that store something else are known to them alone: nothing is granted until those have left every window.
local format = redis.call('GET', FORMAT)
if format and format ~= step.format then return cjson.encode({ other = format }) end
local raw = redis.call('GET', STATE)
local state = raw and cmsgpack.unpack(raw)
local wakes = {}

local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
-- The clock never runs backwards: when the server's is set back, the difference is kept.
local now = clock + (state and state.shift or 0)
if state and now < state.last then
  state.shift = state.last - clock
  now = state.last
end

local function count(key) return redis.call('ZCARD', key) end

-- A key of ours was evicted or deleted, or this data was written by another server: calls may be missing.
local function is_lost()
  return not state or state.run ~= run or state.past ~= count(PAST) or state.flying ~= count(FLYING)
    or state.log ~= count(LOG) or step.doubt == state.epoch
end

-- Nothing is granted until the replicas have brought their copies.
local function begin_epoch()
  local before = state or { shift = 0, seq = 0, keep = 0, most = 0 }
  -- The answer to a probe may never be heard of here; without one, the next call finds out.
  local gate = before.gate and before.gate.till and before.gate or nil
  state = {
    epoch = step.nonce, run = run, shift = before.shift, seq = before.seq, keep = before.keep, most = before.most,
    merging = now + step.window, merged = {}, copies = 0, gen = 0, members = {}, turn = 0,
    level = 0, rate = 0, at = now, plan = 0, gate = gate, trimmed = before.seq + 1,
  }
  wakes['*'] = true
end

local function note(id)
  state.seq = state.seq + 1
  redis.call('ZADD', LOG, state.seq, id)
end

local function count_at(id, at)
  redis.call('ZREM', FLYING, id)
  redis.call('ZADD', PAST, 'GT', at, id)
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

-- The bucket: see pace.rs, of which this is the shared form.
local function fill()
  state.level = math.min(step.burst, state.level + state.rate * math.max(0, now - state.at))
  state.at = now
end

local function replan()
  local longest = step.limits[#step.limits]
  local returns = {}
  local past = redis.call('ZRANGEBYSCORE', PAST, '(' .. string.format('%.0f', now - longest.hold), '+inf', 'WITHSCORES')
  for i = 2, #past, 2 do returns[#returns + 1] = tonumber(past[i]) + longest.hold end
  local flying = redis.call('ZRANGE', FLYING, 0, -1, 'WITHSCORES')
  for i = 2, #flying, 2 do
    returns[#returns + 1] = math.max(tonumber(flying[i]) - step.attempt + step.landing, now) + longest.hold
  end
  local free = longest.calls - #returns
  state.level = math.min(state.level, math.max(free, 0))
  local spare = free - state.level
  state.rate, state.plan = (spare + #returns) / longest.hold, now + longest.hold
  for k, back in ipairs(returns) do
    local sustainable = (spare + k - 1) / (back - now)
    if back > now and sustainable < state.rate then state.rate, state.plan = sustainable, back end
  end
end

local function upset() state.plan = 0 end

-- When the bucket holds n calls.
local function bucket(n)
  local missing = n - 0.000001 - state.level
  if missing <= 0 then return now end
  return math.min(state.rate > 0 and now + missing / state.rate or math.huge, state.plan)
end

local function take(id)
  if state.level >= step.burst then upset() end
  state.level = math.max(state.level - 1, 0)
  redis.call('ZADD', FLYING, now + step.attempt, id)
  note(id)
  if state.gate and state.gate.till then state.gate = { probe = id } end
end

local function settle(id, age)
  if redis.call('ZSCORE', FLYING, id) then count_at(id, now - age) end
end

local function refund(id)
  if redis.call('ZREM', FLYING, id) == 1 then
    note(id)
    state.level = math.min(state.level + 1, step.burst)
    upset()
    if state.gate and state.gate.probe == id then state.gate = nil end
  end
end

-- The upstream said 429: everybody pauses, and calls of others that the ledger did not know are charged.
local function throttle(said)
  settle(said.id, said.age)
  local named
  for _, limit in ipairs(step.limits) do
    if limit.window == said.window then named = limit end
  end
  for _, limit in ipairs(named and {} or step.limits) do
    if not named or limit.calls - used(limit) < named.calls - used(named) then named = limit end
  end
  local missing = math.max(0, named.calls - used(named))
  local wait = said.wait
  if not wait and missing == 0 then
    local first = redis.call('ZRANGEBYSCORE', PAST, '(' .. string.format('%.0f', now - named.hold), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    wait = first[2] and tonumber(first[2]) + named.hold - now
  end
  local till = now + math.min(wait or named.window, step.longest_pause)
  for i = 1, missing do count_at(said.id .. '~' .. i, till - named.hold) end
  if state.gate and state.gate.till then till = math.max(till, state.gate.till) end
  state.gate = { till = till }
  upset()
  return missing
end

-- A replica's copy: the latest that anybody knows of a charge counts.
local function merge(copy)
  for _, entry in ipairs(copy.charges or {}) do
    local id, kind, offset = entry[1], entry[2], entry[3]
    if kind == 2 then
      count_at(id, now - offset)
    elseif not redis.call('ZSCORE', PAST, id) then
      redis.call('ZADD', FLYING, 'GT', now + offset, id)
      note(id)
    end
  end
  if copy.pause then
    local till = now + copy.pause
    if not (state.gate and state.gate.till and state.gate.till > till) then state.gate = { till = till } end
  end
  upset()
  if not state.merging then return end
  state.merged[step.me] = true
  state.copies = state.copies + 1
  if not state.best or now - copy.age > state.best.at then
    state.best = { at = now - copy.age, members = copy.members or {} }
  end
end

-- Every charge was granted before the freshest copy was taken, and is in it, or to a replica that this copy names: see shared/mod.rs.
local function is_complete()
  if not state.best or state.best.at < now - step.lease then return false end
  for _, name in ipairs(state.best.members) do
    if not state.merged[name] then return false end
  end
  return true
end

-- Charges the most that can have been granted and is known to nobody.
local function assume()
  if state.copies == 0 then
    if step.past == 'empty' then state.level = step.burst end
    if step.past == 'paced' then state.level = math.floor(step.burst / 10) end
    if step.past == 'full' then
      for i = 1, state.most do count_at(state.epoch .. '~' .. i, now + step.attempt) end
    end
    return
  end
  local longest, gap = step.limits[#step.limits], now - state.best.at
  local unknown = math.ceil(step.burst + longest.calls / longest.hold * gap) + 1
  for _, limit in ipairs(step.limits) do
    if gap <= limit.hold then unknown = math.min(unknown, limit.calls - used(limit)) end
  end
  for i = 1, math.min(unknown, state.most) do count_at(state.epoch .. '~' .. i, now) end
end

local function end_merge()
  local complete = is_complete()
  if not complete and now < state.merging then return end
  if not complete then assume() end
  state.merging, state.merged, state.best = nil, nil, nil
  upset()
  wakes['*'] = true
end

-- Whose turn the next slot is, among the replicas that are known to all.

local STRIDE = 2 ^ 20
local AHEAD = 64 -- how many coming slots are looked at to tell a replica when its turn comes
local DUES = 32 -- how many moments are looked at by which promised calls are due

-- Membership: a newcomer is granted nothing until every other replica has heard of it, or its charges could be lost with it.
local function admit()
  for name, member in pairs(state.members) do
    if member.lease < now then
      state.members[name] = nil
      state.gen = state.gen + 1
    end
  end
  local me = state.members[step.me]
  if not me then
    state.gen = state.gen + 1
    me = { joined = state.gen, call = 0, pass = state.turn, want = 0, seen = 0 }
    state.members[step.me] = me
    wakes['*'] = true
  end
  return me
end

local function is_known(name, member)
  if member.known then return true end
  for other, watcher in pairs(state.members) do
    if other ~= name and watcher.seen < member.joined then return false end
  end
  member.known = true
  if name ~= step.me then wakes[name] = true end
  return true
end

local function asking()
  local asks = {}
  for name, member in pairs(state.members) do
    -- Who does not come for its slot in time is passed over until it is heard of again.
    if member.claim and member.claim <= now and name ~= step.me then member.want, member.claim = 0, nil end
    if member.want > 0 and is_known(name, member) then asks[name] = { want = member.want, pass = member.pass, dues = {} } end
  end
  return asks
end

-- What callers of these replicas were promised, by when it is due. At most `most` entries: neighbours become one, due with the first.
local function promises(asks, most)
  local all, merged = {}, {}
  for name in pairs(asks) do
    for _, promise in ipairs(state.members[name].promised or {}) do
      all[#all + 1] = { name = name, calls = promise[1], first = promise[2], last = promise[3] }
    end
  end
  table.sort(all, function(a, b) return a.first < b.first or (a.first == b.first and a.name < b.name) end)
  local chunk = math.ceil(#all / most)
  for i, promise in ipairs(all) do
    if (i - 1) % chunk == 0 then merged[#merged + 1] = { calls = 0, first = promise.first, last = promise.last, of = {} } end
    local entry = merged[#merged]
    entry.calls, entry.last = entry.calls + promise.calls, math.max(entry.last, promise.last)
    entry.of[promise.name] = (entry.of[promise.name] or 0) + promise.calls
  end
  return merged
end

-- How many slots come until `at`, at the least.
local function slots_until(at)
  local gate = state.gate
  if gate and (gate.probe or gate.till > at) then return 0 end
  local calls = state.level + state.rate * (at - now)
  for _, limit in ipairs(step.limits) do
    -- A window may be filled again and again.
    local times = 1 + math.floor((at - now) / (limit.hold + step.landing))
    calls = math.min(calls, times * limit.calls - used(limit, at))
  end
  return math.floor(calls + 0.000001)
end

-- The moments at which promised calls are due. `slack`: how many slots before it may still go to calls that are due later.
local function deadlines(asks)
  local dues, owed = promises(asks, DUES), 0
  for n, due in ipairs(dues) do
    owed = owed + due.calls
    due.slack = slots_until(due.first) - owed
    for name, calls in pairs(due.of) do
      local mine = asks[name].dues
      mine[#mine + 1] = { n = n, calls = calls }
    end
  end
  return dues
end

-- The replica whose turn the next slot is: the lowest pass, unless a promise would be late; then who has the earliest. `asks` holds what
-- each still wants. Also returns the lowest pass.
local function next_turn(asks, dues)
  local function due(name)
    local first = asks[name].dues[1]
    return first and first.n or #dues + 1
  end
  local best, first
  for name, ask in pairs(asks) do
    if ask.want > 0 then
      if not best or ask.pass < asks[best].pass or (ask.pass == asks[best].pass and name < best) then best = name end
      if not first or due(name) < due(first) or (due(name) == due(first) and name < first) then first = name end
    end
  end
  if not best then return nil end
  local lowest = asks[best].pass
  for n = 1, due(best) - 1 do
    if dues[n].slack < 1 then best = first break end
  end
  for n = 1, due(best) - 1 do dues[n].slack = dues[n].slack - 1 end
  local ask = asks[best]
  ask.want = ask.want - 1
  ask.pass = ask.pass + STRIDE / state.members[best].weight
  local promise = ask.dues[1]
  if promise then
    promise.calls = promise.calls - 1
    if promise.calls == 0 then table.remove(ask.dues, 1) end
  end
  return best, lowest
end

local function free_now()
  if state.gate and (state.gate.probe or state.gate.till > now) then return 0 end
  local free = math.min(math.floor(state.level + 0.000001), room())
  if state.gate then free = math.min(free, 1) end
  return math.max(free, 0)
end

-- When the n-th coming slot comes, for a timer: nil when only news can tell.
local function slot_at(n)
  if state.gate and state.gate.probe then return nil end
  local at = opening(n)
  return at and math.max(at, bucket(n), state.gate and state.gate.till or 0)
end

-- The slot serves the call that is due first.
local function redeem(me)
  local promise = me.promised and me.promised[1]
  if not promise then return end
  promise[1] = promise[1] - 1
  if promise[1] == 0 then table.remove(me.promised, 1) end
end

-- Hands the free slots out in turn: this replica's are granted, the others' kept for them for a moment.
local function grant(me)
  fill()
  if state.plan <= now then replan() end
  local asks, granted, kept, due = asking(), {}, 0, nil
  local dues = deadlines(asks)
  local free = free_now()
  for _ = 1, free do
    local name, lowest = next_turn(asks, dues)
    if not name then break end
    if name == step.me then
      -- Served out of turn, it must not drag those along who are still to come.
      state.turn = math.max(state.turn, lowest)
      me.pass, me.want = asks[name].pass, me.want - 1
      redeem(me)
      local id = step.me .. ':' .. (step.next + #granted)
      take(id)
      granted[#granted + 1] = id
    else
      local member = state.members[name]
      kept = kept + 1
      if not member.claim then
        member.claim = now + step.claim
        wakes[name] = true
      end
      due = math.min(due or math.huge, member.claim)
    end
  end
  for n = 1, asks[step.me] and AHEAD or 1 do
    local name = next_turn(asks, dues)
    local at = name and (n == 1 or name == step.me) and slot_at(kept + n)
    if name == step.me then
      me.due = at and math.min(due or math.huge, at)
      return granted, me.due or due
    end
    local member = state.members[name]
    if at and (not member.due or member.due > at + 2000) then
      -- Its turn comes earlier than it was told.
      member.due = at
      wakes[name] = true
    end
  end
  return granted, due
end

-- The step itself, and what is said of it.

local TOLD = 16 -- how many entries a replica is told of what the others have promised

local function news()
  local ids
  if step.seq < (state.trimmed or 0) then
    ids = redis.call('ZRANGE', PAST, 0, -1)
    for _, id in ipairs(redis.call('ZRANGE', FLYING, 0, -1)) do ids[#ids + 1] = id end
  else
    ids = redis.call('ZRANGEBYSCORE', LOG, '(' .. step.seq, '+inf')
  end
  local list = {}
  for _, id in ipairs(ids) do
    local at = redis.call('ZSCORE', PAST, id)
    local latest = not at and redis.call('ZSCORE', FLYING, id)
    if at then
      list[#list + 1] = { id, 2, math.floor(now - tonumber(at)) }
    elseif latest then
      list[#list + 1] = { id, 1, math.ceil(tonumber(latest) - now) }
    else
      list[#list + 1] = { id, 0, 0 }
    end
  end
  return #list > 0 and list or nil
end

-- What the others want, for a forecast: of each how many calls, or -1 for all that it can get, and its weight; and what they have promised.
local function rivals()
  local others, wants, promised = {}, {}, {}
  for name, member in pairs(state.members) do
    if name ~= step.me and member.want > 0 then
      others[name] = true
      -- Versions that do not tell what they promise do not tell either whether they want more.
      local want = (member.more or not member.promised) and -1 or member.want
      wants[#wants + 1] = { want, member.weight }
    end
  end
  for _, due in ipairs(promises(others, TOLD)) do
    promised[#promised + 1] = { due.calls, math.floor(due.first - now), math.floor(due.last - now) }
  end
  return #wants > 0 and wants or nil, #promised > 0 and promised or nil
end

local function finish(reply)
  state.last = now
  state.past, state.flying, state.log = count(PAST), count(FLYING), count(LOG)
  redis.call('SET', STATE, cmsgpack.pack(state))
  for _, key in ipairs({ STATE, PAST, FLYING, LOG }) do redis.call('PEXPIRE', key, step.ttl) end
  redis.call('SET', FORMAT, step.format, 'PX', step.quiet)
  for name in pairs(wakes) do redis.call('PUBLISH', STATE, name) end
  reply.epoch, reply.now = state.epoch, string.format('%.0f', now)
  return cjson.encode(reply)
end

local function run_step()
  if is_lost() then begin_epoch() end
  if step.epoch ~= state.epoch then return finish({ stale = true }) end
  state.keep, state.most = math.max(state.keep, step.keep), math.max(state.most, step.most)
  if step.leave then
    if state.members[step.me] then state.gen = state.gen + 1 end
    state.members[step.me] = nil
  end
  local me = not step.leave and admit()
  if me then
    -- A step that was overtaken by a later one of the same replica must not be taken: nobody reads its answer.
    if step.call <= me.call then return finish({ stale = true }) end
    if me.want == 0 then me.pass = math.max(me.pass, state.turn) end
    me.call, me.lease, me.seen, me.want, me.weight = step.call, now + step.lease, step.gen, step.want, step.weight
    me.claim, me.due = nil, nil
    me.promised, me.more = {}, step.turns_away
    for n, promise in ipairs(step.promised or {}) do
      me.promised[n] = { promise[1], now + promise[2], now + promise[3] }
    end
  end
  sweep()
  if step.copy then merge(step.copy) end
  for _, done in ipairs(step.settled or {}) do settle(done[1], done[2]) end
  for _, id in ipairs(step.refunded or {}) do refund(id) end
  local foreign = 0
  for _, said in ipairs(step.throttled or {}) do foreign = foreign + throttle(said) end
  if state.merging then end_merge() end
  local granted, due = {}, nil
  if me and not state.merging then granted, due = grant(me) end
  local gate = state.gate or {}
  local wants, promised = rivals()
  local names = {}
  for name in pairs(state.members) do names[#names + 1] = name end
  return finish({
    granted = #granted > 0 and #granted or nil,
    due = due and due < math.huge and math.max(0, math.ceil(due - now)) or nil,
    merging = state.merging and math.max(0, state.merging - now) or nil,
    news = news(), seq = state.seq, gen = state.gen, members = #names > 0 and names or nil, foreign = foreign,
    level = state.level, rate = state.rate * 1000000, plan = math.max(0, state.plan - now),
    pause = gate.till and math.max(0, gate.till - now) or nil, probe = gate.probe,
    wants = wants, promised = promised,
  })
end

return run_step()
