package ingress

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

type addrs = []netip.Addr

func lookup(t testing.TB, network string, at netip.Addr, name string, qtype uint16) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	return ask1(t, network, at, m)
}

func ask1(t testing.TB, network string, at netip.Addr, m *dns.Msg) *dns.Msg {
	t.Helper()
	c := &dns.Client{Net: network, Timeout: 5 * time.Second, UDPSize: 4096}
	r, _, err := c.Exchange(m, netip.AddrPortFrom(at, 53).String())
	if err != nil {
		t.Fatalf("%s %s: %v", network, m.Question[0].String(), err)
	}
	return r
}

// upstream is a resolver of the host; it gives the line for resolv.conf.
func upstream(t testing.TB, at netip.Addr, h dns.HandlerFunc) string {
	t.Helper()
	for _, network := range []string{"udp", "tcp"} {
		up := make(chan struct{})
		s := &dns.Server{Addr: netip.AddrPortFrom(at, 53).String(), Net: network, Handler: h, NotifyStartedFunc: func() { close(up) }}
		done := make(chan error, 1)
		go func() { done <- s.ListenAndServe() }()
		select {
		case <-up:
		case err := <-done:
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Shutdown(); <-done })
	}
	return "nameserver " + at.String() + "\n"
}

func testResolver(t testing.TB, resolv string) *resolver {
	t.Helper()
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte(resolv), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newResolver(discard(), file)
	t.Cleanup(func() { r.close(t.Context()) })
	return r
}

func TestZoneAnswers(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	up := upstream(t, loopback(20), func(w dns.ResponseWriter, q *dns.Msg) {
		asked.Add(1)
		m := new(dns.Msg)
		m.SetReply(q)
		n := 1
		if strings.HasPrefix(q.Question[0].Name, "big.") {
			n = 120
		}
		for i := range n {
			m.Answer = append(m.Answer, &dns.A{Hdr: header(q.Question[0].Name, dns.TypeA), A: net.IPv4(192, 0, 2, byte(i))})
		}
		if w.LocalAddr().Network() == "udp" {
			m.Truncate(dns.MinMsgSize)
		}
		_ = w.WriteMsg(m)
	})
	// the first server is dead, the second is ourselves, the third answers
	r := testResolver(t, "nameserver "+loopback(21).String()+"\nnameserver "+loopback(22).String()+"\n"+up)
	z := Zone{
		Network: "n", Listen: loopback(22), Prefix: netip.MustParsePrefix("127.0.0.0/8"),
		Names: map[string]addrs{"web": {loopback(50)}, "db.p-abcdef": {loopback(51)}, "two": {loopback(50), loopback(52)}, "none": {}},
		Views: []View{{Askers: addrs{loopback(99)}, Names: map[string]addrs{"hidden": {loopback(61)}}}},
	}
	viewed := Zone{
		Network: "v", Listen: loopback(23), Prefix: z.Prefix, Names: z.Names,
		Views: []View{{Askers: addrs{netip.MustParseAddr("127.0.0.1")}, Names: map[string]addrs{"cache": {loopback(60)}}}},
	}
	if err := r.set([]Zone{z, viewed}, nil); err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"udp", "tcp"} {
		for _, c := range []struct {
			name  string
			qtype uint16
			rcode int
			want  []string
		}{
			{"web.", dns.TypeA, dns.RcodeSuccess, []string{loopback(50).String()}},
			{"WEB.", dns.TypeA, dns.RcodeSuccess, []string{loopback(50).String()}},
			{"two.", dns.TypeA, dns.RcodeSuccess, []string{loopback(50).String(), loopback(52).String()}},
			{"web.", dns.TypeAAAA, dns.RcodeSuccess, nil},
			{"web.", dns.TypeMX, dns.RcodeSuccess, nil},
			{"none.", dns.TypeA, dns.RcodeSuccess, nil},
			{"db.p-abcdef.", dns.TypeA, dns.RcodeSuccess, []string{loopback(51).String()}},
			{"hidden.", dns.TypeA, dns.RcodeNameError, nil},
			{"nobody.", dns.TypeA, dns.RcodeNameError, nil},
			{"nobody.", dns.TypeAAAA, dns.RcodeNameError, nil},
			{"www.example.", dns.TypeA, dns.RcodeSuccess, []string{"192.0.2.0"}},
		} {
			m := lookup(t, network, z.Listen, c.name, c.qtype)
			var got []string
			for _, rr := range m.Answer {
				if a, ok := rr.(*dns.A); ok {
					got = append(got, a.A.String())
				}
			}
			if m.Rcode != c.rcode || !slices.Equal(got, c.want) {
				t.Errorf("%s %s %s: %s %v, want %s %v", network, c.name, dns.TypeToString[c.qtype], dns.RcodeToString[m.Rcode], got, dns.RcodeToString[c.rcode], c.want)
			}
		}
	}
	for name, rcode := range map[string]int{"cache.": dns.RcodeSuccess, "web.": dns.RcodeNameError, "db.p-abcdef.": dns.RcodeSuccess} {
		if m := lookup(t, "udp", viewed.Listen, name, dns.TypeA); m.Rcode != rcode {
			t.Errorf("view: %s: %s", name, dns.RcodeToString[m.Rcode])
		}
	}
	if ptr, _ := dns.ReverseAddr(loopback(50).String()); len(lookup(t, "udp", z.Listen, ptr, dns.TypePTR).Answer) != 1 {
		t.Error("no name of an address")
	}
	before := asked.Load()
	if ptr, _ := dns.ReverseAddr(loopback(77).String()); lookup(t, "udp", z.Listen, ptr, dns.TypePTR).Rcode != dns.RcodeNameError || asked.Load() != before {
		t.Error("an unknown address of the network was asked for outside")
	}
	if m := lookup(t, "tcp", z.Listen, "big.example.", dns.TypeA); len(m.Answer) != 120 || m.Truncated {
		t.Errorf("tcp: %d answers", len(m.Answer))
	}
	if m := lookup(t, "udp", z.Listen, "big.example.", dns.TypeA); !m.Truncated {
		t.Errorf("udp without EDNS: %d answers in %d bytes", len(m.Answer), m.Len())
	}
	q := new(dns.Msg)
	q.SetQuestion("big.example.", dns.TypeA)
	q.SetEdns0(4096, false)
	if m := ask1(t, "udp", z.Listen, q); m.Truncated || len(m.Answer) != 120 {
		t.Errorf("udp with EDNS: truncated %v, %d answers", m.Truncated, len(m.Answer))
	}
}

func TestZonesComeAndGo(t *testing.T) {
	t.Parallel()
	r := testResolver(t, "nameserver "+loopback(30).String()+"\n")
	a, b := loopback(30), loopback(31)
	zones := func(l ...netip.Addr) (z []Zone) {
		for i, x := range l {
			z = append(z, Zone{Network: fmt.Sprint(i), Listen: x, Names: map[string]addrs{"me": {x}}})
		}
		return z
	}
	if err := r.set(zones(a, b), nil); err != nil {
		t.Fatal(err)
	}
	for _, x := range []netip.Addr{a, b} {
		if m := lookup(t, "udp", x, "me.", dns.TypeA); m.Answer[0].(*dns.A).A.String() != x.String() {
			t.Errorf("%s answers %v", x, m.Answer)
		}
	}
	// the only resolver of the host is ourselves: no loop, a failure
	if m := lookup(t, "udp", a, "www.example.", dns.TypeA); m.Rcode != dns.RcodeServerFailure || r.failures.Load() != 1 {
		t.Errorf("%s, %d failures", dns.RcodeToString[m.Rcode], r.failures.Load())
	}
	if err := r.set(zones(b), nil); err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", netip.AddrPortFrom(a, 53).String()); err == nil {
		_ = c.Close()
		t.Error("the listener of a zone that went is open")
	}
	l, err := net.ListenPacket("udp", netip.AddrPortFrom(a, 53).String())
	if err != nil {
		t.Fatalf("the port is not free: %v", err)
	}
	// somebody else has the address: it is tried again until it is free
	if err := r.set(zones(a, b), nil); err == nil {
		t.Error("no error for a taken address")
	}
	if m := lookup(t, "tcp", b, "me.", dns.TypeA); len(m.Answer) != 1 {
		t.Error("the other zone does not answer")
	}
	_ = l.Close()
	until(t, "the zone is served", func() bool {
		c, err := net.Dial("tcp", netip.AddrPortFrom(a, 53).String())
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	// an address that no interface has yet
	if err := r.set(zones(netip.MustParseAddr("10.213.214.215")), nil); err != nil {
		t.Errorf("an address to come: %v", err)
	}
}

func TestZoneRefusesStrangers(t *testing.T) {
	t.Parallel()
	z := Zone{Listen: netip.MustParseAddr("10.1.2.1"), Prefix: netip.MustParsePrefix("10.1.2.0/24")}
	for a, want := range map[string]bool{"10.1.2.9": true, "127.0.0.1": true, "10.1.2.1": true, "10.1.3.9": false, "198.51.100.7": false} {
		if z.serves(netip.MustParseAddr(a)) != want {
			t.Errorf("%s: want %v", a, want)
		}
	}
}
