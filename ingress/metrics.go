package ingress

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics is what the process has counted since it started.
type Metrics struct {
	Hosts    map[string]HostMetrics `json:"hosts"`
	Active   int64                  `json:"active"`    // requests and WebSockets under way
	DNS      int64                  `json:"dns"`       // questions answered
	DNSError int64                  `json:"dns_error"` // of them with SERVFAIL
}

// HostMetrics is that of one hostname. Requests for hosts that nobody has are
// counted together under "".
type HostMetrics struct {
	Status  map[int]int64 `json:"status"`  // requests by status
	Buckets []int64       `json:"buckets"` // requests by latency, as latencyBounds; the last is the rest
	Seconds float64       `json:"seconds"` // sum of the latencies
	Bytes   int64         `json:"bytes"`   // of response bodies
}

// latencyBounds are upper bounds in seconds.
func latencyBounds() []float64 {
	return []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}
}

// maxHostMetrics bounds how many hosts are counted apart.
const maxHostMetrics = 5000

type counters struct {
	bounds []float64
	mu     sync.Mutex
	hosts  map[string]*HostMetrics
}

func newCounters() *counters {
	return &counters{bounds: latencyBounds(), hosts: map[string]*HostMetrics{}}
}

func (c *counters) add(host string, status int, took time.Duration, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.hosts[host]
	if h == nil {
		if len(c.hosts) >= maxHostMetrics {
			host = ""
		}
		if h = c.hosts[host]; h == nil {
			h = &HostMetrics{Status: map[int]int64{}, Buckets: make([]int64, len(c.bounds)+1)}
			c.hosts[host] = h
		}
	}
	h.Status[status]++
	h.Seconds += took.Seconds()
	h.Bytes += bytes
	i := 0
	for i < len(c.bounds) && took.Seconds() > c.bounds[i] {
		i++
	}
	h.Buckets[i]++
}

func (c *counters) snapshot() map[string]HostMetrics {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]HostMetrics, len(c.hosts))
	for k, h := range c.hosts {
		m := HostMetrics{Status: make(map[int]int64, len(h.Status)), Buckets: append([]int64(nil), h.Buckets...), Seconds: h.Seconds, Bytes: h.Bytes}
		for s, n := range h.Status {
			m.Status[s] = n
		}
		out[k] = m
	}
	return out
}

// collector shows Metrics to Prometheus.
type collector struct {
	read                         func() (Metrics, error)
	requests, latency, bytes     *prometheus.Desc
	active, questions, dnsErrors *prometheus.Desc
	up                           *prometheus.Desc
}

func newCollector(read func() (Metrics, error)) *collector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("slipway_ingress_"+name, help, labels, nil)
	}
	return &collector{
		read:      read,
		up:        d("up", "Whether the ingress process answers."),
		requests:  d("requests_total", "Requests by hostname and status.", "host", "status"),
		latency:   d("request_seconds", "Time from the request's header to the end of its answer.", "host"),
		bytes:     d("response_bytes_total", "Bytes of response bodies.", "host"),
		active:    d("active_requests", "Requests and WebSockets under way."),
		questions: d("dns_questions_total", "DNS questions of containers."),
		dnsErrors: d("dns_failures_total", "DNS questions that could not be answered."),
	}
}

// Describe is that of prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect is that of prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	m, err := c.read()
	if err != nil {
		ch <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, 0)
		return
	}
	ch <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, 1)
	ch <- prometheus.MustNewConstMetric(c.active, prometheus.GaugeValue, float64(m.Active))
	ch <- prometheus.MustNewConstMetric(c.questions, prometheus.CounterValue, float64(m.DNS))
	ch <- prometheus.MustNewConstMetric(c.dnsErrors, prometheus.CounterValue, float64(m.DNSError))
	bounds := latencyBounds()
	for host, h := range m.Hosts {
		for status, n := range h.Status {
			ch <- prometheus.MustNewConstMetric(c.requests, prometheus.CounterValue, float64(n), host, strconv.Itoa(status))
		}
		ch <- prometheus.MustNewConstMetric(c.bytes, prometheus.CounterValue, float64(h.Bytes), host)
		cum := map[float64]uint64{}
		var sum uint64
		for i, n := range h.Buckets {
			sum += uint64(n)
			if i < len(bounds) {
				cum[bounds[i]] = sum
			}
		}
		ch <- prometheus.MustNewConstHistogram(c.latency, sum, h.Seconds, cum, host)
	}
}
