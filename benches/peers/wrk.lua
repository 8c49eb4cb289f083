-- Requests from a template; arguments of wrk: ... -- METHOD PATH CONTENT-TYPE FEEDS RUN BODY
-- In PATH and BODY, {id} is replaced by a unique id that begins with RUN, and {feed} by a random number below FEEDS.
-- The last line of the output is JSON, because wrk rounds the figures in its own table.
local threads = 0

function setup(thread)
  thread:set("thread_number", threads)
  threads = threads + 1
end

function init(args)
  method, path, content_type = args[1], args[2], args[3]
  feeds, run, body = tonumber(args[4]), args[5], args[6]
  sent = 0
  math.randomseed(thread_number + 1)
end

local function place(name)
  if name == "feed" then return tostring(math.random(0, feeds - 1)) end
  if name == "id" then
    sent = sent + 1
    return run .. "-" .. thread_number .. "-" .. sent
  end
end

function request()
  local to = path:gsub("{(%a+)}", place)
  local head = method .. " " .. to .. " HTTP/1.1\r\nhost: " .. wrk.host .. "\r\n"
  if body == nil then return head .. "\r\n" end
  local filled = body:gsub("{(%a+)}", place)
  return head .. "content-type: " .. content_type .. "\r\ncontent-length: " .. #filled .. "\r\n\r\n" .. filled
end

function done(summary, latency)
  local errors = summary.errors
  print(string.format(
    '{"requests":%d,"elapsed_us":%d,"p50_us":%d,"p99_us":%d,"refused":%d,"broken":%d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
