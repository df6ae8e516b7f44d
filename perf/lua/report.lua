-- One line of JSON when all is over, for those who include this.
function done(summary, latency, requests)
   local e = summary.errors
   local errors = e.connect + e.read + e.write + e.status + e.timeout
   local good = summary.requests - e.status
   io.write(string.format(
      '{"requests": %d, "rate": %.3f, "p50_ms": %.3f, "p99_ms": %.3f, "errors": %d}\n',
      good, good / (summary.duration / 1e6),
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, errors))
end

function contents(name)
   local file = assert(io.open(name, "rb"))
   local text = file:read("*a")
   file:close()
   return text
end
