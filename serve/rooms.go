package serve

import (
	"net/netip"
	"runtime"

	"slipway/api/buddy"
	"slipway/event"
	"slipway/pipeline"
	"slipway/registry"
	"slipway/stack"
	"slipway/trigger"
)

// openCore builds the two rooms that the others are there for, and what starts
// work in them.
func (s *Server) openCore() error {
	limits := pipeline.Limits{Runs: s.cfg.ActionsParallel, Builds: s.cfg.BuildsParallel}
	if limits.Runs == 0 {
		limits.Runs = 4 * runtime.NumCPU()
	}
	if limits.Builds == 0 {
		limits.Builds = max(1, runtime.NumCPU()/2)
	}
	s.stacks = stack.New(stack.Config{Room: s.disk.room}, stack.Rooms{
		DB: s.db, Projects: s.projects, Secrets: s.secrets, Events: s.events, Images: s.images, Ingresses: s.ingresses, Logs: s.logs,
		Engine: s.engine, Router: s.ingress,
	})
	logMax, _ := size(s.cfg.LogMax, 0)
	vendors, err := registry.Elsewhere(s.cfg.Vendors)
	if err != nil {
		return err
	}
	vendors.Identity = s.secrets.Issuer(s.cfg.PublicURL).Token
	s.pipelines = pipeline.New(pipeline.Config{
		Limits: limits, PublicURL: s.cfg.PublicURL, Room: s.disk.room, LogMax: logMax, Registries: registry.New(vendors),
		Language: pipeline.Language{Dialect: buddy.Name, Read: buddy.ReadDefinition},
	}, s.db, s.access, s.projects, s.secrets, s.sources, s.images, s.logs)
	// The name is the same after a restart, so that what a killed server held is
	// claimed at once; the lock of the data directory sees to it that there is
	// only one.
	if s.runner, err = pipeline.NewRunner(s.pipelines, s.engine, "serve"); err != nil {
		return err
	}
	if s.files, err = pipeline.NewFiles(s.pipelines, s.engine); err != nil {
		return err
	}
	s.trigger = trigger.New(s.db, s.events, s.sources, s.pipelines)
	s.hooks = event.NewHooks(event.HookConfig{
		Private: s.cfg.PrivateSources, Owner: "serve", Payload: buddy.Payload(s.cfg.PublicURL, s.buddyRooms()),
	}, s.db, s.secrets.Box())
	return nil
}

// buddyRooms are those that this dialect speaks to.
func (s *Server) buddyRooms() buddy.Rooms {
	return buddy.Rooms{Access: s.access, Projects: s.projects, Secrets: s.secrets, Sources: s.sources, Pipelines: s.pipelines, Files: s.files, Hooks: s.hooks}
}

func (s *Server) addresses() []netip.Addr {
	a, err := netip.ParseAddr(s.cfg.PublicIP) // it was checked
	if err != nil {
		return nil
	}
	return []netip.Addr{a}
}
