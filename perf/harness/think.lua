-- wrk: 64 users who think for 0 to 40 ms between two requests, so that requests arrive spread out and
-- at about the same rate for every proxy. Percentiles in microseconds, one line for the harness.
function delay()
   return math.random(0, 40)
end

function done(summary, latency, requests)
   io.write("percentiles")
   for _, p in ipairs({ 50, 90, 99, 99.9 }) do
      io.write(string.format(" %d", latency:percentile(p)))
   end
   io.write("\n")
end
