
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
