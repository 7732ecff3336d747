package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"slipway/engine"
)

const (
	// perBase is how many networks of 256 addresses one 10.B.0.0/16 has.
	perBase = 250
	// Last octets of the containers of a network; the gateway has 1.
	firstAddr, lastAddr = 2, 250
	maxBases            = 4
	// networkIdle is how long a network without a container stays: longer than
	// one that replaces another takes.
	networkIdle = 10 * time.Second
)

// network owns the bridges of this instance (one for runs and builds, one for
// each project), its table of rules and the pool of network namespaces. Names
// are not answered here: who does listens on the gateways (engine.Networks).
type network struct {
	e    *Engine
	mtu  int
	pool pool

	mu      sync.Mutex
	plan    plan
	bridges map[string]netlink.Link // network -> its bridge, if it is up
	taken   map[string]map[int]bool // network -> last octets in use
	next    map[string]int          // network -> where the search goes on
	empty   map[string]time.Time    // network -> when its last container left it
	idle    *time.Timer             // prunes
	armed   bool                    // idle will
	rulesMu sync.Mutex              // one writer of the table at a time
}

// plan is networks.json: which numbers the networks have. Number n is
// 10.Bases[n/250].(n%250).0/24; number 0 is the network of runs and builds,
// whose name is "".
type plan struct {
	Bases   []byte         `json:"bases"`
	Numbers map[string]int `json:"numbers"`
}

func (p *plan) prefix(number int) netip.Prefix {
	return netip.PrefixFrom(p.addr(number, 0), 24)
}

func (p *plan) addr(number, last int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, p.Bases[number/perBase], byte(number % perBase), byte(last)})
}

// free is the least number that no network has.
func (p *plan) free() int {
	used := map[int]bool{}
	for _, n := range p.Numbers {
		used[n] = true
	}
	n := 0
	for used[n] {
		n++
	}
	return n
}

func (e *Engine) openNetwork() error {
	n := &network{e: e, mtu: outMTU(), bridges: map[string]netlink.Link{}, taken: map[string]map[int]bool{}, next: map[string]int{}, empty: map[string]time.Time{}}
	n.pool.n = n
	e.net = n
	b, err := os.ReadFile(n.file())
	switch {
	case err == nil:
		if err := json.Unmarshal(b, &n.plan); err != nil {
			return fmt.Errorf("%s: %w", n.file(), err)
		}
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if n.plan.Numbers == nil {
		n.plan.Numbers = map[string]int{"": 0}
	}
	if len(n.plan.Bases) == 0 {
		base, err := freeBase(e.inst, nil)
		if err != nil {
			return err
		}
		n.plan.Bases = []byte{base}
		if err := n.save(); err != nil {
			return err
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return err
	}
	for _, m := range e.monitors.all("") { // before anything is given out
		n.keep(m.Network, m.Last)
		n.pool.keep(m.Slot)
	}
	if err := n.up("", true); err != nil {
		return err
	}
	for name := range n.plan.Numbers { // those that an earlier server had up
		if _, err := netlink.LinkByName(n.bridgeName(n.plan.Numbers[name])); err == nil {
			if err := n.up(name, true); err != nil {
				return err
			}
		}
	}
	if err := n.writeRules(); err != nil {
		return err
	}
	n.sweepLinks()
	n.pool.fill()
	n.mu.Lock()
	n.idle, n.armed = time.AfterFunc(networkIdle, n.pruneIdle), true // earlier servers may have left some
	n.mu.Unlock()
	return nil
}

// close drops the pool. Bridges, rules and what containers use stay: they go
// on without us.
func (n *network) close() {
	if n.idle != nil { // it came up
		n.idle.Stop()
	}
	n.pool.close()
}

func (n *network) file() string { return n.e.path("networks.json") }

// save writes the plan so that a crash leaves the old or the new one.
func (n *network) save() error {
	b, err := json.Marshal(n.plan)
	if err != nil {
		return err
	}
	return replaceFile(n.file(), b)
}

// replaceFile writes a file whole or not at all, and durably.
func replaceFile(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(path + ".new")
		return err
	}
	return os.Rename(path+".new", path)
}

// freeBase finds a B so that no route of this host touches 10.B.0.0/16. The
// search starts at a place made from the instance, so that instances differ.
func freeBase(inst string, have []byte) (byte, error) {
	start, err := strconv.ParseUint(inst[:2], 16, 8)
	if err != nil {
		return 0, err
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return 0, err
	}
	for i := range 200 {
		b := byte(20 + (int(start)+i)%200)
		if slices.Contains(have, b) {
			continue
		}
		want := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, b, 0, 0}), 16)
		if !slices.ContainsFunc(routes, func(r netlink.Route) bool {
			if r.Dst == nil {
				return false
			}
			ones, _ := r.Dst.Mask.Size()
			a, ok := netip.AddrFromSlice(r.Dst.IP.To4())
			return ok && ones > 0 && netip.PrefixFrom(a, ones).Overlaps(want)
		}) {
			return b, nil
		}
	}
	return 0, errors.New("no part of 10.0.0.0/8 is free of routes for the containers' networks")
}

// outMTU is that of the link by which this host goes out, and 1500 at most.
func outMTU() int {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return 1500
	}
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones > 0 {
				continue
			}
		}
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil && l.Attrs().MTU >= 576 {
			return min(l.Attrs().MTU, 1500)
		}
	}
	return 1500
}

func (n *network) bridgeName(number int) string { return fmt.Sprintf("sw%s-%d", n.e.inst[:6], number) }

func (n *network) vethName(number, last int) string {
	return fmt.Sprintf("v%s%x-%x", n.e.inst[:6], number, last)
}

// mac is made from the address, so that it is the same whenever the address
// is.
func mac(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, 0x53, b[0], b[1], b[2], b[3]}
}

// up makes the bridge of a network if it is not there.
// Quiet leaves the rules to the caller.
func (n *network) up(name string, quiet bool) error {
	n.mu.Lock()
	number, err := n.number(name)
	if err != nil {
		n.mu.Unlock()
		return err
	}
	if n.bridges[name] != nil {
		n.mu.Unlock()
		return nil
	}
	l, err := n.bridge(number)
	if err == nil {
		n.bridges[name] = l
	}
	n.mu.Unlock()
	if err != nil {
		return fmt.Errorf("network %q: %w", name, err)
	}
	if quiet {
		return nil
	}
	return n.writeRules()
}

// number is that of a network; a new one is durable before it is used. The
// caller holds mu.
func (n *network) number(name string) (int, error) {
	if number, ok := n.plan.Numbers[name]; ok {
		return number, nil
	}
	number := n.plan.free()
	if number >= perBase*len(n.plan.Bases) {
		if len(n.plan.Bases) == maxBases {
			return 0, fmt.Errorf("there are %d networks, no more are possible", number)
		}
		base, err := freeBase(n.e.inst, n.plan.Bases)
		if err != nil {
			return 0, err
		}
		n.plan.Bases = append(n.plan.Bases, base)
	}
	n.plan.Numbers[name] = number
	if err := n.save(); err != nil {
		delete(n.plan.Numbers, name)
		return 0, err
	}
	return number, nil
}

// bridge makes a bridge or puts right the one that is there.
func (n *network) bridge(number int) (netlink.Link, error) {
	name, gw := n.bridgeName(number), n.plan.addr(number, 1)
	l, err := netlink.LinkByName(name)
	if err != nil {
		la := netlink.NewLinkAttrs()
		// A fixed address: else it changes with the ports that come and go.
		la.Name, la.MTU, la.HardwareAddr = name, n.mtu, mac(gw)
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: la}); err != nil {
			return nil, fmt.Errorf("add bridge %s: %w", name, err)
		}
		if l, err = netlink.LinkByName(name); err != nil {
			return nil, err
		}
	}
	// No address of version 6, so no way to the host by it.
	_ = os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", name, "disable_ipv6"), []byte("1"), 0o644)
	a := &netlink.Addr{IPNet: &net.IPNet{IP: gw.AsSlice(), Mask: net.CIDRMask(24, 32)}}
	if err := errors.Join(netlink.AddrReplace(l, a), netlink.LinkSetUp(l)); err != nil {
		return nil, err
	}
	return l, nil
}

// take gives an unused address of a network, and not one that was in use a
// moment ago, which somebody may remember.
func (n *network) take(name string) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	used := n.taken[name]
	if used == nil {
		used = map[int]bool{}
		n.taken[name] = used
	}
	delete(n.empty, name)
	const span = lastAddr - firstAddr + 1
	for i := range span {
		last := firstAddr + (n.next[name]+i)%span
		if !used[last] {
			used[last] = true
			n.next[name] = last - firstAddr + 1
			return last, nil
		}
	}
	return 0, fmt.Errorf("network %q has no free address", name)
}

// keep takes an address out of what can be given.
func (n *network) keep(name string, last int) {
	if name == "" || last == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.taken[name] == nil {
		n.taken[name] = map[int]bool{}
	}
	n.taken[name][last] = true
	n.next[name] = max(n.next[name], last-firstAddr+1)
}

// give takes an address back.
func (n *network) give(name string, last int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.taken[name], last)
	if len(n.taken[name]) == 0 {
		n.empty[name] = time.Now()
		n.arm(networkIdle)
	}
}

// arm has pruneIdle run; others that are emptied meanwhile do not put it off.
// The caller holds mu.
func (n *network) arm(in time.Duration) {
	if !n.armed {
		n.armed = true
		n.idle.Reset(in)
	}
}

// gatewayOf is where the containers of a network send their questions; it is
// not valid if there is no such network.
func (n *network) gatewayOf(name string) (gw netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if number, ok := n.plan.Numbers[name]; ok {
		gw = n.plan.addr(number, 1)
	}
	return gw
}

// gateway is where runs and builds send their DNS questions.
func (n *network) gateway() string { return n.gatewayOf("").String() }

// resolv is the text of resolv.conf in a network.
func (n *network) resolv(name string) []byte {
	return []byte("nameserver " + n.gatewayOf(name).String() + "\noptions ndots:0\n")
}

// unused gives the networks of projects that have had no container for a
// while. If others have had none for less, it is to be asked again. The caller
// holds mu.
func (n *network) unused() (names []string) {
	n.armed = false
	soonest, others := networkIdle, false
	for name := range n.plan.Numbers {
		switch {
		case name == "" || len(n.taken[name]) > 0:
		case time.Since(n.empty[name]) >= networkIdle:
			names = append(names, name)
		default:
			soonest = min(soonest, networkIdle-time.Since(n.empty[name]))
			others = true
		}
	}
	if others {
		n.arm(soonest)
	}
	return names
}

// prune removes the networks that are not used.
func (n *network) prune() error {
	n.mu.Lock()
	var gone []int
	for _, name := range n.unused() {
		gone = append(gone, n.plan.Numbers[name])
		delete(n.plan.Numbers, name)
		delete(n.bridges, name)
		delete(n.next, name)
		delete(n.taken, name)
		delete(n.empty, name)
	}
	if len(gone) == 0 {
		n.mu.Unlock()
		return nil
	}
	var err error
	for _, number := range gone {
		if l, lerr := netlink.LinkByName(n.bridgeName(number)); lerr == nil {
			err = errors.Join(err, netlink.LinkDel(l))
		}
	}
	err = errors.Join(err, n.save())
	n.mu.Unlock()
	return errors.Join(err, n.writeRules())
}

// pruneIdle is prune some time after a network has lost its last container.
func (n *network) pruneIdle() {
	if !n.e.begin() {
		return
	}
	defer n.e.ending.Done()
	if err := n.prune(); err != nil {
		n.e.log.Error("networks without a container could not be removed", "err", err)
	}
}

// Networks implements engine.Networks.
func (e *Engine) Networks(context.Context) ([]engine.Network, error) {
	n := e.net
	n.mu.Lock()
	defer n.mu.Unlock()
	var l []engine.Network
	for name := range n.bridges {
		number := n.plan.Numbers[name]
		l = append(l, engine.Network{Name: name, Gateway: n.plan.addr(number, 1), Prefix: n.plan.prefix(number)})
	}
	slices.SortFunc(l, func(a, b engine.Network) int { return a.Gateway.Compare(b.Gateway) })
	return l, nil
}
