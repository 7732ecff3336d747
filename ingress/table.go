package ingress

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"slipway/project"
)

// Endpoint is a running instance of a service.
type Endpoint struct {
	Service string // UUID
	Name    string // of the service
	Addr    netip.Addr
	Ports   []Port
}

// Port is a port that a service offers: Public to others of its project,
// Target in the container.
type Port struct {
	Public, Target uint16
	Protocol       string // tcp, udp
}

// Table is all that the ingress process knows. It is replaced whole.
type Table struct {
	Version int64           // for people and tests; whoever sets last wins
	Hosts   map[string]Host // by hostname
	Zones   []Zone
}

// Host is one hostname.
type Host struct {
	Project string
	Routes  []Route // longest path first
}

// Route leads a path prefix to backends.
type Route struct {
	Path     string
	Backends []netip.AddrPort `json:",omitempty"` // none: 503
	Why      string           `json:",omitempty"` // what the 503 says
	Redirect string           `json:",omitempty"`
	Page     bool             `json:",omitempty"`
	Service  string           `json:",omitempty"` // UUID
	Name     string           `json:",omitempty"` // of the service, if an instance of it is known
}

// Zone answers the DNS questions of one network.
type Zone struct {
	Network string
	Listen  netip.Addr
	Prefix  netip.Prefix
	Names   map[string][]netip.Addr
	Views   []View `json:",omitempty"` // see Lookup
}

// Network is a network that needs a zone.
type Network struct {
	Name    string
	Gateway netip.Addr
	Prefix  netip.Prefix
}

// Build makes the table. It is pure, and the same input gives the same table
// in whatever order it comes. endpoints are by project, names lists for each
// network what resolves in it.
func Build(version int64, all []Ingress, endpoints map[project.ID][]Endpoint, networks []Network, names map[string]map[string][]netip.Addr) Table {
	t := Table{Version: version, Hosts: make(map[string]Host, len(all))}
	all = slices.SortedFunc(slices.Values(all), func(a, b Ingress) int {
		v := func(i Ingress) int { // a verified one wins, then the oldest
			if i.Verified {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(v(a), v(b)), a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	for _, in := range all {
		if _, taken := t.Hosts[in.Hostname]; taken || in.Hostname == "" {
			continue
		}
		h := Host{Project: string(in.Project), Routes: make([]Route, 0, len(in.Paths))}
		for _, p := range in.Paths {
			h.Routes = append(h.Routes, route(in, p, endpoints[in.Project]))
		}
		slices.SortFunc(h.Routes, func(a, b Route) int {
			return cmp.Or(cmp.Compare(len(b.Path), len(a.Path)), cmp.Compare(a.Path, b.Path))
		})
		t.Hosts[in.Hostname] = h
	}
	for _, n := range networks {
		t.Zones = append(t.Zones, zone(n, names[n.Name]))
	}
	slices.SortFunc(t.Zones, func(a, b Zone) int { return cmp.Compare(a.Network, b.Network) })
	return t
}

func route(in Ingress, p Path, endpoints []Endpoint) Route {
	r := Route{Path: trimPath(p.Path)}
	switch {
	case !in.Enabled:
		r.Why = "this ingress is switched off"
	case p.DefaultPage:
		r.Page = true
	case p.URL != "":
		r.Redirect = p.URL
	default:
		serviceRoute(&r, p, endpoints)
	}
	return r
}

func serviceRoute(r *Route, p Path, endpoints []Endpoint) {
	r.Service = p.Service
	want, err := tcpPort(p.Port)
	if err != nil {
		r.Why = fmt.Sprintf("the port %q of the path is not a tcp port", p.Port)
		return
	}
	var offers []string
	for _, e := range endpoints {
		if e.Service != p.Service || !e.Addr.IsValid() {
			continue
		}
		r.Name = e.Name
		if target, ok := matchPort(e.Ports, want); ok {
			r.Backends = append(r.Backends, netip.AddrPortFrom(e.Addr.Unmap(), target))
			continue
		}
		for _, o := range e.Ports {
			offers = append(offers, fmt.Sprintf("%d/%s", o.Target, o.Protocol))
		}
	}
	slices.SortFunc(r.Backends, netip.AddrPort.Compare)
	r.Backends = slices.Compact(r.Backends)
	switch {
	case len(r.Backends) > 0:
	case r.Name != "":
		slices.Sort(offers)
		r.Why = fmt.Sprintf("the service %s has no port %d/tcp, it offers %s", r.Name, want, strings.Join(slices.Compact(offers), ", "))
	default:
		r.Why = "the service is not running"
	}
}

// matchPort finds the container's port for what a path asks for: a port inside
// the container, or the public side of one. A service that declares no ports
// is taken at the path's word.
func matchPort(ports []Port, want uint16) (uint16, bool) {
	if len(ports) == 0 {
		return want, true
	}
	for _, p := range ports {
		if p.Target == want && tcp(p) {
			return p.Target, true
		}
	}
	for _, p := range ports {
		if p.Public == want && tcp(p) {
			return p.Target, true
		}
	}
	return 0, false
}

func tcp(p Port) bool { return p.Protocol == "tcp" || p.Protocol == "" }

func zone(n Network, names map[string][]netip.Addr) Zone {
	z := Zone{Network: n.Name, Listen: n.Gateway, Prefix: n.Prefix, Names: make(map[string][]netip.Addr, len(names))}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		k := strings.ToLower(strings.TrimSuffix(name, "."))
		l := append(slices.Clone(z.Names[k]), names[name]...)
		slices.SortFunc(l, netip.Addr.Compare)
		z.Names[k] = slices.Compact(l)
	}
	return z
}

// Match finds the route of a path: the longest prefix that ends at a segment.
func (h Host) Match(path string) (Route, bool) {
	for _, r := range h.Routes {
		if rest, ok := strings.CutPrefix(path, r.Path); ok && (rest == "" || rest[0] == '/' || r.Path == "/") {
			return r, true
		}
	}
	return Route{}, false
}

// Find finds the host of a Host header or a TLS server name.
func (t Table) Find(name string) (string, Host, bool) {
	name = hostOnly(name)
	h, ok := t.Hosts[name]
	return name, h, ok
}

// hostOnly takes port and last dot away and lowers the letters.
func hostOnly(s string) string {
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		s = s[:i]
	}
	s = strings.TrimSuffix(s, ".")
	return strings.ToLower(strings.Trim(s, "[]"))
}
