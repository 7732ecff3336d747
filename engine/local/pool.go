package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	bknet "github.com/moby/buildkit/util/network"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	poolReady = 4 // made ahead
	poolKeep  = 8 // kept for the next; more are dropped
)

// pool holds network namespaces that runs and build steps take in turn. One may
// be used again by the next only because containers have no CAP_NET_ADMIN: what
// they leave is gone with their processes.
type pool struct {
	n       *network
	mu      sync.Mutex
	free    []*slot
	busy    map[int]bool // numbers in use, by runs of an earlier server too
	closed  bool
	filling sync.WaitGroup
}

// slot is a namespace with an address, ready for a container.
type slot struct {
	number int // last octet of the address
	path   string
}

// keep marks a number as in use. It is for the start, when a run of an earlier
// server has the namespace.
func (p *pool) keep(number int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy == nil {
		p.busy = map[int]bool{}
	}
	if number > 0 {
		p.busy[number] = true
	}
}

// fill makes some namespaces in the background.
func (p *pool) fill() {
	p.keep(0)
	p.filling.Go(func() {
		for range poolReady {
			s, err := p.make()
			if err != nil {
				p.n.e.log.Error("no network namespace could be made", "err", err)
				return
			}
			p.put(s)
		}
	})
}

func (p *pool) slot(number int) *slot {
	return &slot{number, filepath.Join(p.n.e.run, "netns", fmt.Sprintf("pool%d", number))}
}

func (p *pool) make() (*slot, error) {
	p.mu.Lock()
	number := firstAddr
	for p.busy[number] {
		number++
	}
	if number > lastAddr {
		p.mu.Unlock()
		return nil, errors.New("the pool of network namespaces is exhausted")
	}
	p.busy[number] = true
	p.mu.Unlock()
	s := p.slot(number)
	if err := p.n.newNamespace("", s.path, number); err != nil {
		p.forget(number)
		return nil, err
	}
	return s, nil
}

func (p *pool) forget(number int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.busy, number)
}

// get takes a namespace that is ready, or makes one more.
func (p *pool) get() (*slot, error) {
	p.mu.Lock()
	if i := len(p.free) - 1; i >= 0 {
		s := p.free[i]
		p.free = p.free[:i]
		p.mu.Unlock()
		return s, nil
	}
	p.mu.Unlock()
	return p.make()
}

// put gives a namespace back.
func (p *pool) put(s *slot) {
	p.mu.Lock()
	if !p.closed && len(p.free) < poolKeep {
		p.free = append(p.free, s)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	p.n.dropNamespace(s.path, 0, s.number)
	p.forget(s.number)
}

// putNumber gives back the namespace of a run of an earlier server, if it is
// still there.
func (p *pool) putNumber(number int) {
	if number == 0 {
		return
	}
	s := p.slot(number)
	if !isNamespace(s.path) {
		p.n.dropNamespace(s.path, 0, number)
		p.forget(number)
		return
	}
	p.put(s)
}

func (p *pool) close() {
	p.filling.Wait()
	p.mu.Lock()
	free := p.free
	p.free, p.closed = nil, true
	p.mu.Unlock()
	for _, s := range free {
		p.n.dropNamespace(s.path, 0, s.number)
	}
}

// isNamespace tells whether a namespace is mounted there.
func isNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// newNamespace makes a network namespace at path with one address of a network,
// which is up. In the network of runs and builds none reaches another.
func (n *network) newNamespace(name, path string, last int) error {
	n.mu.Lock()
	number, br := n.plan.Numbers[name], n.bridges[name]
	ip, gw := n.plan.addr(number, last), n.plan.addr(number, 1)
	n.mu.Unlock()
	if br == nil {
		return fmt.Errorf("network %q is not up", name)
	}
	// The kernel takes a dropped namespace apart later, so the old end may be
	// there yet.
	n.dropNamespace(path, number, last)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	_ = f.Close()
	done := make(chan error, 1)
	go func() {
		// Not unlocked: the thread dies with the goroutine and takes its
		// changed namespace along.
		runtime.LockOSThread()
		done <- inNamespace(path, n.vethName(number, last), n.mtu, ip, gw)
	}()
	err = <-done
	if err == nil {
		err = n.plug(br, n.vethName(number, last), ip, name == "")
	}
	if err != nil {
		n.dropNamespace(path, number, last)
		return fmt.Errorf("network namespace: %w", err)
	}
	return nil
}

// inNamespace puts the calling thread into a new namespace, keeps it at path
// and makes its side of the link.
func inNamespace(path, peer string, mtu int, ip, gw netip.Addr) error {
	own := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
	host, err := os.Open(own)
	if err != nil {
		return err
	}
	defer host.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount(own, path, "none", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", path, err)
	}
	// These files are those of the thread's namespace.
	for _, f := range []string{"all", "default"} {
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+f+"/disable_ipv6", []byte("1"), 0o644)
	}
	// As elsewhere: ping without capabilities, and low ports for every user.
	_ = os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0o644)
	_ = os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0o644)
	la := netlink.NewLinkAttrs()
	la.Name, la.MTU, la.HardwareAddr = "eth0", mtu, mac(ip)
	// Both ends in one request: eth0 here, the other in the host's namespace.
	v := &netlink.Veth{LinkAttrs: la, PeerName: peer, PeerNamespace: netlink.NsFd(int(host.Fd()))}
	if err := netlink.LinkAdd(v); err != nil {
		return fmt.Errorf("add veth: %w", err)
	}
	for _, name := range []string{"lo", "eth0"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if name == "eth0" {
			if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(24, 32)}}); err != nil {
				return err
			}
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
	}
	return netlink.RouteAdd(&netlink.Route{Gw: gw.AsSlice()})
}

// plug connects the host's end to the bridge. Containers may send raw frames,
// so the bridge learns nothing from them: which address is behind which port is
// written down, and nobody can take another's.
func (n *network) plug(br netlink.Link, veth string, ip netip.Addr, isolated bool) error {
	l, err := netlink.LinkByName(veth)
	if err != nil {
		return err
	}
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+veth+"/disable_ipv6", []byte("1"), 0o644)
	if err := netlink.LinkSetMaster(l, br); err != nil {
		return err
	}
	if err := netlink.LinkSetLearning(l, false); err != nil {
		return err
	}
	if isolated {
		if err := netlink.LinkSetIsolated(l, true); err != nil {
			return err
		}
	}
	port := &netlink.Neigh{
		LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER,
		State: netlink.NUD_NOARP | netlink.NUD_REACHABLE, HardwareAddr: mac(ip),
	}
	if err := netlink.NeighSet(port); err != nil {
		return fmt.Errorf("fdb: %w", err)
	}
	arp := &netlink.Neigh{LinkIndex: br.Attrs().Index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: mac(ip)}
	if err := netlink.NeighSet(arp); err != nil {
		return fmt.Errorf("neighbour: %w", err)
	}
	return netlink.LinkSetUp(l)
}

// dropNamespace removes a namespace and the host's end of its link.
func (n *network) dropNamespace(path string, number, last int) {
	if l, err := netlink.LinkByName(n.vethName(number, last)); err == nil {
		_ = netlink.LinkDel(l)
	}
	for unix.Unmount(path, unix.MNT_DETACH) == nil {
	}
	_ = os.Remove(path)
}

// New, with Close, is BuildKit's way to ask for a namespace: build steps take
// from the same pool as runs.
func (n *network) New(context.Context, string, bknet.NamespaceOptions) (bknet.Namespace, error) {
	s, err := n.pool.get()
	if err != nil {
		return nil, err
	}
	return &buildNamespace{n: n, s: s}, nil
}

// Close does nothing: the engine closes its network itself, after BuildKit.
func (n *network) Close() error { return nil }

type buildNamespace struct {
	n    *network
	s    *slot
	once sync.Once
}

// Set implements BuildKit's network.Namespace.
func (b *buildNamespace) Set(s *specs.Spec) error {
	setNetwork(s, b.s.path)
	return nil
}

// Close implements BuildKit's network.Namespace. Put back twice, two containers
// would share it.
func (b *buildNamespace) Close() error {
	b.once.Do(func() { b.n.pool.put(b.s) })
	return nil
}

// Sample implements BuildKit's network.Namespace.
func (b *buildNamespace) Sample() (*resourcestypes.NetworkSample, error) { return nil, nil }

// setNetwork puts a container into the network namespace at path; "" is a new
// one with nothing but its loopback.
func setNetwork(s *specs.Spec, path string) {
	for i := range s.Linux.Namespaces {
		if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
			s.Linux.Namespaces[i].Path = path
			return
		}
	}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: path})
}
