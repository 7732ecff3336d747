package stack

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"slipway/crash"
	"slipway/db"
	"slipway/engine"
	"slipway/event"
	"slipway/ingress"
	"slipway/project"
)

// routesTopic is woken when an address of a service is different.
const routesTopic = "routes"

// routes is what the publisher of the routing table needs between two looks.
type routes struct {
	bell chan struct{} // holds one signal

	mu     sync.Mutex
	ask    map[ID][]netip.Addr // addresses of all containers, by stack
	wanted int64               // counts flushes that were asked for
	done   int64               // ... that a table was set after
	news   chan struct{}       // closed when done grows
}

func newRoutes() *routes {
	return &routes{bell: make(chan struct{}, 1), ask: map[ID][]netip.Addr{}, news: make(chan struct{})}
}

func (r *routes) ring() {
	select {
	case r.bell <- struct{}{}:
	default:
	}
}

// askers notes the addresses from which the containers of a stack ask for names.
func (r *routes) askers(id ID, have []engine.Instance) {
	var addrs []netip.Addr
	for _, i := range have {
		if i.State != engine.Ended && i.Addr.IsValid() {
			addrs = append(addrs, i.Addr.Unmap())
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Equal(r.ask[id], addrs) {
		return
	}
	if r.ask[id] = addrs; len(addrs) == 0 {
		delete(r.ask, id)
	}
	r.ring()
}

// flush waits until what is in the rows now is served.
func (r *routes) flush(ctx context.Context) error {
	r.mu.Lock()
	r.wanted++
	mine := r.wanted
	r.mu.Unlock()
	r.ring()
	for {
		r.mu.Lock()
		done, news := r.done, r.news
		r.mu.Unlock()
		if done >= mine {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (r *routes) served(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n > r.done {
		r.done = n
		close(r.news)
		r.news = make(chan struct{})
	}
}

// publish hands the routing table to the router, whole, whenever something of
// it is different.
func (s *Stacks) publish(ctx context.Context) error {
	rows, stop := s.db.Watch(routesTopic)
	defer stop()
	events, stopEvents := s.db.Watch(event.Topic)
	defer stopEvents()
	var last *ingress.Table
	var retry <-chan time.Time
	for {
		n, t, err := s.table(ctx)
		if err == nil && (last == nil || !reflect.DeepEqual(*last, t)) {
			if err = s.set(ctx, t); err == nil {
				last = &t
				crash.At("stack: routes set")
			}
		}
		retry = nil
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			slog.Error("the routes cannot be set", "room", "stack", "error", err)
			retry = time.After(time.Second)
		default:
			s.routes.served(n)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-rows:
		case <-events:
		case <-s.routes.bell:
		case <-retry:
		}
	}
}

func (s *Stacks) set(ctx context.Context, t ingress.Table) error {
	t.Version = time.Now().UnixMicro()
	return s.router.Set(ctx, t)
}

// table reads all that the table is made of and makes it, with version 0. n is
// the newest flush that it covers.
func (s *Stacks) table(ctx context.Context) (n int64, t ingress.Table, err error) {
	s.routes.mu.Lock()
	n = s.routes.wanted
	askers := maps.Clone(s.routes.ask)
	s.routes.mu.Unlock()
	all, err := s.ingress.All(ctx)
	if err != nil {
		return 0, t, fmt.Errorf("ingresses: %w", err)
	}
	var places []place
	if err := s.db.Read(ctx, func(tx *db.Tx) error {
		places, err = loadPlaces(tx)
		return err
	}); err != nil {
		return 0, t, fmt.Errorf("endpoints: %w", err)
	}
	var networks []ingress.Network
	if e, ok := s.engine.(engine.Networks); ok {
		list, err := e.Networks(ctx)
		if err != nil {
			return 0, t, fmt.Errorf("networks: %w", err)
		}
		for _, w := range list {
			networks = append(networks, ingress.Network{Name: w.Name, Gateway: w.Gateway, Prefix: w.Prefix})
		}
	}
	for i := range places {
		places[i].Askers = askers[places[i].Stack]
	}
	return n, build(all, places, networks), nil
}

// place is one stack as the table needs it.
type place struct {
	Stack    ID
	Project  project.ID
	Prefix   string
	Services []placed
	Askers   []netip.Addr // of all its containers
}

type placed struct {
	ID    ServiceID
	Name  string
	Addr  netip.Addr // of the container that serves; not valid if none does
	Ports []Port
}

// build makes the table. It is pure.
func build(all []ingress.Ingress, places []place, networks []ingress.Network) ingress.Table {
	endpoints := map[project.ID][]ingress.Endpoint{}
	for _, p := range places {
		for _, s := range p.Services {
			if !s.Addr.IsValid() {
				continue
			}
			e := ingress.Endpoint{Service: string(s.ID), Name: s.Name, Addr: s.Addr}
			for _, o := range s.Ports {
				e.Ports = append(e.Ports, ingress.Port{Public: o.Public, Target: o.Target, Protocol: o.Protocol})
			}
			endpoints[p.Project] = append(endpoints[p.Project], e)
		}
	}
	names, views := names(places)
	t := ingress.Build(0, all, endpoints, networks, names)
	for i := range t.Zones {
		t.Zones[i].Views = views[t.Zones[i].Network]
	}
	return t
}

// names says what resolves in each network: in the view of a stack the bare
// names of its own services, and for all of the project "<service>.<prefix>". A
// container asks before its address is known here; so that it is not left
// alone, bare names that only one stack of the project has are there for those
// whom no view knows.
func names(places []place) (map[string]map[string][]netip.Addr, map[string][]ingress.View) {
	all := map[string]map[string][]netip.Addr{}
	views := map[string][]ingress.View{}
	many := map[string]map[string]int{}
	for _, p := range places {
		network := string(p.Project)
		if all[network] == nil {
			all[network], many[network] = map[string][]netip.Addr{}, map[string]int{}
		}
		view := ingress.View{Askers: p.Askers, Names: map[string][]netip.Addr{}}
		for _, s := range p.Services {
			var addrs []netip.Addr
			if s.Addr.IsValid() {
				addrs = []netip.Addr{s.Addr.Unmap()}
			}
			name := strings.ToLower(s.Name)
			view.Names[name] = addrs
			all[network][name+"."+strings.ToLower(p.Prefix)] = addrs
			all[network][name] = addrs
			many[network][name]++
		}
		if len(p.Askers) > 0 {
			views[network] = append(views[network], view)
		}
	}
	for network, count := range many {
		for name, n := range count {
			if n > 1 {
				delete(all[network], name)
			}
		}
	}
	return all, views
}

// loadPlaces reads what runs where, in a stable order.
func loadPlaces(tx *db.Tx) ([]place, error) {
	rows, err := tx.Query(`SELECT t.id, t.project, t.prefix, s.id, s.name, s.addr, COALESCE(d.spec, '')
		FROM stacks t JOIN services s ON s.stack = t.id LEFT JOIN service_definitions d ON d.id = s.serving
		WHERE t.deleted IS NULL AND s.removed IS NULL ORDER BY t.project, t.created, t.id, s.name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []place
	for rows.Next() {
		var p place
		var s placed
		var addr, spec string
		if err := rows.Scan(&p.Stack, &p.Project, &p.Prefix, &s.ID, &s.Name, &addr, &spec); err != nil {
			return nil, err
		}
		if addr != "" {
			if s.Addr, err = netip.ParseAddr(addr); err != nil {
				return nil, err
			}
			var d Definition
			if err := json.Unmarshal([]byte(spec), &d); err != nil {
				return nil, fmt.Errorf("service %s: %w", s.ID, err)
			}
			s.Ports = d.Ports
		}
		if len(out) == 0 || out[len(out)-1].Stack != p.Stack {
			out = append(out, p)
		}
		last := &out[len(out)-1]
		last.Services = append(last.Services, s)
	}
	return out, rows.Err()
}
