package ingress

import (
	"net/netip"
	"slices"
	"strings"
)

// View is what resolves only for some of those who ask in a Zone: the services
// of a stack know each other by their bare names, and two stacks of one project
// share a network. The address a question comes from tells the stack.
type View struct {
	Askers []netip.Addr
	Names  map[string][]netip.Addr
}

// Lookup answers the question for a name that comes from an address: first from
// the view of whoever asks, then from what all may ask for. Who has a view gets
// bare names from it alone; the bare names that all may ask for are there for
// those whom no view knows (yet). ok tells whether the name exists; a name
// without a running instance exists without addresses. Names are matched
// without regard to case and to a dot at the end.
func (z Zone) Lookup(from netip.Addr, name string) (addrs []netip.Addr, ok bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	from = from.Unmap()
	for _, v := range z.Views {
		if !slices.Contains(v.Askers, from) {
			continue
		}
		if addrs, ok = v.Names[name]; ok || !strings.Contains(name, ".") {
			return addrs, ok
		}
	}
	addrs, ok = z.Names[name]
	return addrs, ok
}
