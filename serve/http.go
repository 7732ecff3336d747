package serve

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"slipway/access"
	"slipway/api"
	"slipway/api/alauda"
	"slipway/api/buddy"
	"slipway/api/mittwald"
	"slipway/api/native"
	"slipway/pipeline"
)

// handler mounts everything that is served on --listen.
func (s *Server) handler() *api.Server {
	reg, observe := s.metrics()
	srv := api.NewServer(s.access, api.Options{Logger: s.log, TrustedProxies: s.cfg.proxies, RateLimit: s.cfg.RateLimit, Observe: observe})
	srv.Mount(buddy.New(s.cfg.PublicURL, s.buddyRooms()))
	srv.Mount(mittwald.New(mittwald.Rooms{Access: s.access, PublicURL: s.cfg.PublicURL, Projects: s.projects, Secrets: s.secrets, Stacks: s.stacks, Ingresses: s.ingresses, IPs: s.addresses()}))
	srv.Mount((&alauda.Handlers{
		PublicURL: s.cfg.PublicURL, Access: s.access, Projects: s.projects, Sources: s.sources, Pipelines: s.pipelines, Images: s.images,
	}).Dialect())
	srv.Mount((&native.Handlers{
		Server: native.Server{
			Version: s.version.Version, PublicURL: s.cfg.PublicURL, IngressHTTP: s.cfg.IngressHTTP, IngressHTTPS: s.cfg.IngressHTTPS, Domain: s.cfg.Domain,
		},
		Access: s.access, Projects: s.projects, Images: s.images, Events: s.events, Pipelines: s.pipelines, Reruns: pipeline.NewReruns(s.pipelines, s.engine), Check: s.check, Going: s.going,
		Code: native.Code{Dialect: buddy.Name, Read: buddy.ReadYAML, Write: buddy.WriteYAML},
	}).Dialect())
	// Images and mittwald share /v2; shapes of the registry go first.
	srv.MountRaw("/v2", s.images.Handler(srv.Authenticate, srv.Handler("mittwald")))
	srv.MountRaw("/git", s.sources.Handler(func(w http.ResponseWriter, r *http.Request) (access.Actor, bool) {
		by, err := srv.Authenticate(r)
		if err == nil || errdefs.IsUnauthorized(err) && api.Token(r) == "" {
			return by, true // who comes without a token is a stranger, and may read what is public
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="slipway"`)
		http.Error(w, err.Error(), api.Status(err))
		return by, false
	}))
	oauth := buddy.OAuth(s.access, srv.ClientIP, srv.Handler(buddy.Name))
	srv.MountRaw(buddy.OAuthPrefix, oauth)
	srv.MountRaw("/api"+buddy.OAuthPrefix, oauth)
	srv.MountRaw("/.well-known", s.secrets.Issuer(s.cfg.PublicURL).Handler())
	srv.MountRaw("/healthz", says("ok"))
	srv.MountRaw("/readyz", s.readyz())
	srv.MountRaw("/metrics", s.onlyKnown(srv, promhttp.HandlerFor(reg, promhttp.HandlerOpts{})))
	return srv
}

func says(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(text + "\n"))
	})
}

// readyz is 200 always: the listener is only served once everything is up. That
// no new work is taken is said, but it is no reason to ask another server: what
// runs here goes on, and is looked at here.
func (s *Server) readyz() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text := "ok"
		if err := s.disk.room(); err != nil {
			text = "ok, but " + err.Error()
		}
		says(text).ServeHTTP(w, r)
	})
}

// onlyKnown lets tokens and this host in.
func (s *Server) onlyKnown(srv *api.Server, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := srv.Authenticate(r); err != nil && !srv.ClientIP(r).IsLoopback() {
			http.Error(w, err.Error(), api.Status(err))
			return
		}
		h.ServeHTTP(w, r)
	})
}

// metrics makes the registry of this server and the function that counts
// requests.
func (s *Server) metrics() (*prometheus.Registry, func(dialect, pattern string, status int, took time.Duration)) {
	reg := prometheus.NewRegistry()
	requests := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "slipway_request_duration_seconds", Help: "Time to answer requests, by dialect, route and class of status.",
		Buckets: []float64{.001, .005, .02, .1, .5, 2, 10, 60},
	}, []string{"dialect", "route", "status"})
	takes := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "slipway_takes_work", Help: "1 if new work is taken, 0 if it is refused because the disk is nearly full.",
	}, func() float64 {
		if s.disk.room() != nil {
			return 0
		}
		return 1
	})
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), requests, takes, s.ingress.Collector())
	return reg, func(dialect, pattern string, status int, took time.Duration) {
		class := "none"
		if status > 0 {
			class = string(rune('0'+status/100)) + "xx"
		}
		requests.WithLabelValues(dialect, pattern, class).Observe(took.Seconds())
	}
}

// check looks at the stores while they are in use. Who asks while that is done
// for another gets what comes of it: the work is for all of them, and goes on
// when one of them leaves.
func (s *Server) check(ctx context.Context) error {
	done := s.checking.DoChan("", func() (any, error) {
		ctx := context.WithoutCancel(ctx)
		return nil, errors.Join(s.db.Check(ctx), s.engine.Check(ctx), s.images.Check(ctx))
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
