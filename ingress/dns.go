package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// Bounds of the DNS server.
const (
	dnsPort      = 53
	dnsTTL       = 1 // seconds; containers come and go
	dnsTry       = 2 * time.Second
	dnsTotal     = 6 * time.Second
	dnsInFlight  = 512
	resolvFile   = "/etc/resolv.conf"
	resolvAge    = 3 * time.Second
	zoneRetry    = time.Second
	udpAnswerMax = 1232
)

// resolver answers the DNS questions of containers, on the gateway of each
// network.
type resolver struct {
	log    *slog.Logger
	resolv string

	mu     sync.Mutex
	open   map[netip.Addr]*zoneServer
	want   map[netip.Addr]Zone
	closed bool
	wg     sync.WaitGroup
	stop   context.CancelCauseFunc
	ctx    context.Context

	listens   atomic.Pointer[map[netip.Addr]bool] // our own addresses, never asked
	inFlight  chan struct{}
	questions atomic.Int64
	failures  atomic.Int64

	up struct {
		sync.Mutex
		read    time.Time
		servers []string
	}
}

// zoneServer is the pair of sockets of one zone.
type zoneServer struct {
	addr netip.Addr
	zone atomic.Pointer[Zone]
	udp  *net.UDPConn
	tcp  *net.TCPListener
	srvs []*dns.Server
}

func newResolver(log *slog.Logger, resolv string) *resolver {
	ctx, stop := context.WithCancelCause(context.Background())
	r := &resolver{
		log: log, resolv: resolv, open: map[netip.Addr]*zoneServer{}, want: map[netip.Addr]Zone{},
		ctx: ctx, stop: stop, inFlight: make(chan struct{}, dnsInFlight),
	}
	r.listens.Store(&map[netip.Addr]bool{})
	r.wg.Go(r.retry)
	return r
}

// set makes the listeners those of the zones. given are sockets of a
// predecessor. An address that cannot be listened on is tried again every
// second; the error is for the log only.
func (r *resolver) set(zones []Zone, given map[string]*os.File) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return net.ErrClosed
	}
	r.want = map[netip.Addr]Zone{}
	listens := map[netip.Addr]bool{}
	for _, z := range zones {
		if z.Listen.IsValid() {
			z.Listen = z.Listen.Unmap()
			r.want[z.Listen] = z
			listens[z.Listen] = true
		}
	}
	r.listens.Store(&listens)
	for a, s := range r.open {
		if _, ok := r.want[a]; !ok {
			ctx, cancel := context.WithCancelCause(r.ctx)
			cancel(nil)
			s.close(ctx)
			delete(r.open, a)
		}
	}
	return r.reconcile(given)
}

// reconcile opens what is wanted and not open; r.mu is held.
func (r *resolver) reconcile(given map[string]*os.File) error {
	var errs error
	for a, z := range r.want {
		if s := r.open[a]; s != nil {
			s.zone.Store(&z)
			continue
		}
		s, err := r.listen(a, given)
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		s.zone.Store(&z)
		r.open[a] = s
		r.serve(s)
	}
	return errs
}

func (r *resolver) retry() {
	t := time.NewTicker(zoneRetry)
	defer t.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-t.C:
		}
		r.mu.Lock()
		if !r.closed && len(r.open) < len(r.want) {
			_ = r.reconcile(nil) // was logged when it was first tried
		}
		r.mu.Unlock()
	}
}

// listen opens both sockets, also on an address that does not exist yet.
func (r *resolver) listen(a netip.Addr, given map[string]*os.File) (*zoneServer, error) {
	s := &zoneServer{addr: a}
	lc := net.ListenConfig{Control: freebind}
	at := netip.AddrPortFrom(a, dnsPort).String()
	if f := given["dns-udp/"+a.String()]; f != nil {
		if c, err := net.FilePacketConn(f); err == nil {
			s.udp, _ = c.(*net.UDPConn)
		}
	}
	if s.udp == nil {
		c, err := lc.ListenPacket(r.ctx, "udp", at)
		if err != nil {
			return nil, fmt.Errorf("dns: %w", err)
		}
		s.udp = c.(*net.UDPConn)
	}
	if f := given["dns-tcp/"+a.String()]; f != nil {
		if l, err := net.FileListener(f); err == nil {
			s.tcp, _ = l.(*net.TCPListener)
		}
	}
	if s.tcp == nil {
		l, err := lc.Listen(r.ctx, "tcp", at)
		if err != nil {
			_ = s.udp.Close()
			return nil, fmt.Errorf("dns: %w", err)
		}
		s.tcp = l.(*net.TCPListener)
	}
	return s, nil
}

func freebind(network, _ string, c syscall.RawConn) error {
	var err error
	cerr := c.Control(func(fd uintptr) {
		if strings.HasSuffix(network, "6") {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
		}
	})
	return errors.Join(cerr, err)
}

func (r *resolver) serve(s *zoneServer) {
	for _, srv := range []*dns.Server{
		{PacketConn: s.udp, Net: "udp", UDPSize: dns.MaxMsgSize},
		{Listener: s.tcp, Net: "tcp", ReadTimeout: 5 * time.Second, MaxTCPQueries: 256},
	} {
		network := srv.Net
		srv.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { r.answer(s, network, w, q) })
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		done := make(chan struct{})
		r.wg.Go(func() {
			defer close(done)
			if err := srv.ActivateAndServe(); err != nil && !errors.Is(err, net.ErrClosed) && r.ctx.Err() == nil {
				r.log.Warn("dns listener ended", "addr", s.addr.String(), "net", network, "error", err)
			}
		})
		select {
		case <-started:
		case <-done:
		}
		s.srvs = append(s.srvs, srv)
	}
}

// close ends the sockets; it waits for the answers under way until ctx ends,
// the rest are lost, as packets are.
func (s *zoneServer) close(ctx context.Context) {
	for _, srv := range s.srvs {
		_ = srv.ShutdownContext(ctx)
	}
	_, _ = s.udp.Close(), s.tcp.Close()
}

// sockets lists the open sockets for a handover.
func (r *resolver) sockets() map[string]syscall.RawConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := map[string]syscall.RawConn{}
	for a, s := range r.open {
		if c, err := s.udp.SyscallConn(); err == nil {
			m["dns-udp/"+a.String()] = c
		}
		if c, err := s.tcp.SyscallConn(); err == nil {
			m["dns-tcp/"+a.String()] = c
		}
	}
	return m
}

// close ends all; answers under way have until ctx ends.
func (r *resolver) close(ctx context.Context) {
	r.mu.Lock()
	r.closed = true
	open := r.open
	r.open = nil
	r.mu.Unlock()
	var wg sync.WaitGroup
	for _, s := range open {
		wg.Go(func() { s.close(ctx) })
	}
	wg.Wait()
	r.stop(net.ErrClosed)
	r.wg.Wait()
}

// answer answers one question.
func (r *resolver) answer(s *zoneServer, network string, w dns.ResponseWriter, q *dns.Msg) {
	r.questions.Add(1)
	z := s.zone.Load()
	var m *dns.Msg
	switch {
	case q.Response || q.Opcode != dns.OpcodeQuery || len(q.Question) != 1 || q.Question[0].Qclass != dns.ClassINET:
		m = reply(q, dns.RcodeNotImplemented)
	case !z.serves(askerOf(w.RemoteAddr())):
		m = reply(q, dns.RcodeRefused)
	default:
		if m = z.local(askerOf(w.RemoteAddr()), q); m == nil {
			m = r.forward(network, q)
		}
	}
	if m.Rcode == dns.RcodeServerFailure {
		r.failures.Add(1)
	}
	if network == "udp" {
		size := dns.MinMsgSize
		if o := q.IsEdns0(); o != nil {
			size = min(max(int(o.UDPSize()), dns.MinMsgSize), 4096)
		}
		m.Truncate(size)
	}
	_ = w.WriteMsg(m)
}

// serves tells whether a question may come from there: a resolver that is open
// to the world is a weapon.
func (z *Zone) serves(ip netip.Addr) bool {
	return ip.IsLoopback() || ip == z.Listen || !z.Prefix.IsValid() || z.Prefix.Contains(ip)
}

func askerOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

func reply(q *dns.Msg, rcode int) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(q, rcode)
	m.RecursionAvailable = true
	if o := q.IsEdns0(); o != nil {
		m.SetEdns0(udpAnswerMax, false)
	}
	return m
}

// local answers what the zone knows or must know; nil is for the world.
func (z *Zone) local(from netip.Addr, q *dns.Msg) *dns.Msg {
	qu := q.Question[0]
	name := strings.ToLower(strings.TrimSuffix(qu.Name, "."))
	if addrs, ok := z.Lookup(from, name); ok {
		m := reply(q, dns.RcodeSuccess)
		m.Authoritative = true
		for _, a := range addrs {
			switch {
			case a.Is4() && (qu.Qtype == dns.TypeA || qu.Qtype == dns.TypeANY):
				m.Answer = append(m.Answer, &dns.A{Hdr: header(qu.Name, dns.TypeA), A: a.AsSlice()})
			case a.Is6() && (qu.Qtype == dns.TypeAAAA || qu.Qtype == dns.TypeANY):
				m.Answer = append(m.Answer, &dns.AAAA{Hdr: header(qu.Name, dns.TypeAAAA), AAAA: a.AsSlice()})
			}
		}
		return m
	}
	if a, ok := reverse(name); ok && z.Prefix.IsValid() && z.Prefix.Contains(a) {
		return z.pointer(from, q, a)
	}
	if name != "" && !strings.Contains(name, ".") {
		return reply(q, dns.RcodeNameError)
	}
	return nil
}

// pointer answers for an address of the network itself.
func (z *Zone) pointer(from netip.Addr, q *dns.Msg, a netip.Addr) *dns.Msg {
	best := nameOf(z.Names, a)
	for _, v := range z.Views {
		if slices.Contains(v.Askers, from) && best == "" {
			best = nameOf(v.Names, a)
		}
	}
	if best == "" {
		return reply(q, dns.RcodeNameError)
	}
	m := reply(q, dns.RcodeSuccess)
	m.Authoritative = true
	if t := q.Question[0].Qtype; t == dns.TypePTR || t == dns.TypeANY {
		m.Answer = append(m.Answer, &dns.PTR{Hdr: header(q.Question[0].Name, dns.TypePTR), Ptr: dns.Fqdn(best)})
	}
	return m
}

// nameOf finds the shortest name of an address.
func nameOf(names map[string][]netip.Addr, a netip.Addr) (best string) {
	for name, addrs := range names {
		if slices.Contains(addrs, a) && (best == "" || len(name) < len(best) || len(name) == len(best) && name < best) {
			best = name
		}
	}
	return best
}

func header(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: dnsTTL}
}

// reverse reads "4.3.2.1.in-addr.arpa".
func reverse(name string) (netip.Addr, bool) {
	rest, ok := strings.CutSuffix(name, ".in-addr.arpa")
	if !ok {
		return netip.Addr{}, false
	}
	l := strings.Split(rest, ".")
	if len(l) != 4 {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(l[3] + "." + l[2] + "." + l[1] + "." + l[0])
	return a, err == nil
}

// forward asks the host's resolvers, one after the other.
func (r *resolver) forward(network string, q *dns.Msg) *dns.Msg {
	select {
	case r.inFlight <- struct{}{}:
		defer func() { <-r.inFlight }()
	default:
		return reply(q, dns.RcodeServerFailure)
	}
	ctx, cancel := context.WithTimeoutCause(r.ctx, dnsTotal, errors.New("the resolvers of this host do not answer"))
	defer cancel()
	var last *dns.Msg
	for _, server := range r.upstreams() {
		m, err := exchangeDNS(ctx, network, server, q)
		if err != nil {
			continue
		}
		m.Id = q.Id
		if m.Rcode != dns.RcodeServerFailure && m.Rcode != dns.RcodeRefused {
			return m
		}
		last = m
	}
	if last != nil {
		return last
	}
	return reply(q, dns.RcodeServerFailure)
}

// exchangeDNS asks one server; an answer that did not fit into a packet is
// asked for again by TCP.
func exchangeDNS(ctx context.Context, network, server string, q *dns.Msg) (*dns.Msg, error) {
	ask := q.Copy()
	ask.Id = dns.Id() // not the client's: that one could be guessed
	size := uint16(dns.MinMsgSize)
	if o := ask.IsEdns0(); o != nil {
		size = max(o.UDPSize(), size)
	}
	c := &dns.Client{Net: network, Timeout: dnsTry, UDPSize: size}
	m, _, err := c.ExchangeContext(ctx, ask, server)
	if err == nil && m.Truncated && network == "udp" {
		c.Net = "tcp"
		if whole, _, terr := c.ExchangeContext(ctx, ask, server); terr == nil {
			m = whole
		}
	}
	if err != nil {
		return nil, err
	}
	if len(m.Question) != 1 || !strings.EqualFold(m.Question[0].Name, q.Question[0].Name) || m.Question[0].Qtype != q.Question[0].Qtype {
		return nil, errors.New("an answer to another question")
	}
	return m, nil
}

// upstreams are the host's resolvers, read anew when the last reading is old,
// without ourselves.
func (r *resolver) upstreams() []string {
	r.up.Lock()
	defer r.up.Unlock()
	if time.Since(r.up.read) > resolvAge {
		r.up.read = time.Now()
		r.up.servers = nil
		if cfg, err := dns.ClientConfigFromFile(r.resolv); err == nil {
			for _, s := range cfg.Servers {
				r.up.servers = append(r.up.servers, net.JoinHostPort(s, cfg.Port))
			}
		}
	}
	own := *r.listens.Load()
	var l []string
	for _, s := range r.up.servers {
		ap, err := netip.ParseAddrPort(s)
		if err == nil && ap.Port() == dnsPort && own[ap.Addr().Unmap()] {
			continue
		}
		l = append(l, s)
	}
	return l
}
