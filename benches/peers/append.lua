-- Redis: stores an id unless it exists, and adds an entry to a feed. KEYS[1] = id, ARGV[1] = number of feeds, ARGV[2] = data.
if not redis.call('SET', KEYS[1], 1, 'NX') then return false end
local feed = tonumber(string.sub(KEYS[1], -6)) % tonumber(ARGV[1])
return redis.call('XADD', string.format('feed:%012d', feed), '*', 'id', KEYS[1], 'kind', 'visit', 'data', ARGV[2])
