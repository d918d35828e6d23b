-- The requests of wrk. Arguments: path, ids per request, distinct keys ("new": every request asks for ids never asked for before),
-- "shuffled" to ask for the same ids in another order every time, "zipf" to ask for the n-th key 1/n as often as for the first; a number
-- that no other run has; how many callers ask. Prints one line for the runner.

local path, ids, keys, shuffled
local prepared, order, at, fresh = {}, nil, 0, 0
local DRAWS = 100000

-- Ids look like Defender's, and stand in no order.
local function id(key, nth)
  local mixed = (key * 2654435761 + nth * 40503) % 4294967296
  return string.format("%08x-%04x-4%03x-a%03x-%012x", mixed, nth, key % 4096, nth % 4096, key)
end

local function body(key)
  local list = {}
  for nth = 1, ids do list[nth] = '"' .. id(key, nth) .. '"' end
  if shuffled then
    for nth = ids, 2, -1 do
      local other = math.random(nth)
      list[nth], list[other] = list[other], list[nth]
    end
  end
  return '{"ScanDefinitionIds":[' .. table.concat(list, ",") .. ']}'
end

local function request_for(key, caller)
  local headers = { ["Content-Type"] = "application/json" }
  if caller then headers["X-Caller"] = "caller-" .. caller end
  return wrk.format("POST", path, headers, body(key))
end

-- Of the sums of 1, 1/2, 1/3, ... the first that is not below.
local function draw(sums)
  local wanted, low, high = math.random() * sums[#sums], 1, #sums
  while low < high do
    local middle = math.floor((low + high) / 2)
    if sums[middle] < wanted then low = middle + 1 else high = middle end
  end
  return low
end

function init(arguments)
  path, ids = arguments[1], tonumber(arguments[2])
  keys, shuffled = tonumber(arguments[3]), arguments[4] == "shuffled"
  if not keys then
    -- Unlike those of any other run.
    fresh = tonumber(arguments[5]) * 10000000
    return
  end
  local callers = tonumber(arguments[6])
  if callers > 0 then
    for key = 1, keys do
      -- Of few keys each is asked for by all, of many each by one.
      for caller = 1, keys < callers and callers or 1 do prepared[#prepared + 1] = request_for(key, (key + caller) % callers) end
    end
    if arguments[4] == "zipf" then
      local sums, sum = {}, 0
      for key = 1, keys do
        sum = sum + 1 / key
        sums[key] = sum
      end
      order = {}
      for nth = 1, DRAWS do order[nth] = draw(sums) end
    end
    return
  end
  -- Shuffled, each key is prepared in several orders.
  local orders = shuffled and math.max(1, math.min(6, math.floor(20000 / keys))) or 1
  for order = 1, orders do
    for key = 1, keys do prepared[#prepared + 1] = request_for(key) end
  end
end

function request()
  if not keys then
    fresh = fresh + 1
    return request_for(fresh)
  end
  at = at % #(order or prepared) + 1
  return prepared[order and order[at] or at]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("BENCH requests=%d us=%d failed=%d p50=%d p99=%d p999=%d\n", summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
