// Package serve is the server: it reads the configuration, builds every room
// once, top to bottom, starts them, and stops them in reverse. Nothing imports
// it but main.
package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"slipway/access"
	"slipway/cli"
	"slipway/db"
	"slipway/engine"
	"slipway/engine/local"
	"slipway/event"
	"slipway/image"
	"slipway/ingress"
	"slipway/logs"
	"slipway/pipeline"
	"slipway/project"
	"slipway/secret"
	"slipway/source"
	"slipway/stack"
	"slipway/trigger"
)

const (
	// drainTime is how long requests under way may take once the server is told
	// to go; with the rest of the way out it stays below the ten seconds promised.
	drainTime = 5 * time.Second
	// cutTime is how long after it their handlers may take to let go.
	cutTime = time.Second
)

// Server is one running server.
type Server struct {
	cfg     Config
	version Version
	log     *slog.Logger

	lock    *lock
	disk    *disk
	db      *db.DB
	engine  *local.Engine
	ingress *ingress.Process
	listen  net.Listener

	access    *access.Access
	projects  *project.Projects
	secrets   *secret.Secrets
	events    *event.Outbox
	logs      *logs.Logs
	sources   *source.Sources
	images    *image.Images
	ingresses *ingress.Ingresses
	stacks    *stack.Stacks
	pipelines *pipeline.Pipelines
	runner    *pipeline.Runner
	trigger   *trigger.Trigger
	files     *pipeline.Files
	hooks     *event.Hooks

	checking singleflight.Group // see check

	ready   chan struct{}
	going   chan struct{} // closed when the server is to end
	started time.Time
}

// Run serves until ctx ends. It says one line on out when it is ready.
func Run(ctx context.Context, cfg Config, v Version, out, logTo io.Writer) (err error) {
	s := &Server{cfg: cfg, version: v, log: newLogger(cfg, logTo), ready: make(chan struct{}), going: make(chan struct{}), started: time.Now()}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.open(ctx); err != nil {
		if ctx.Err() != nil { // nothing failed: somebody asked
			s.log.Info("asked to end before it was ready", "while", err)
			return nil
		}
		return err
	}
	return s.run(ctx, out)
}

// open builds every room, in the order in which they know each other.
func (s *Server) open(ctx context.Context) (err error) {
	dir := s.cfg.DataDir
	if s.lock, err = takeLock(dir); err != nil {
		return err
	}
	if err := writable(dir); err != nil {
		return err
	}
	// A port that is taken should be known before anything is made.
	if s.listen, err = net.Listen("tcp", s.cfg.Listen); err != nil {
		return fmt.Errorf("--listen %s: %w", s.cfg.Listen, cause(err))
	}
	if s.db, err = db.Open(ctx, filepath.Join(dir, "slipway.db")); err != nil {
		return fmt.Errorf("the store: %w", err)
	}
	box, err := secret.OpenBox(s.cfg.MasterKeyFile)
	if err != nil {
		return err
	}
	if err := box.Guard(ctx, s.db); err != nil { // is it the key of this store?
		return err
	}
	s.access = access.New(s.db)
	s.projects = project.NewProjects(s.db)
	s.secrets = secret.New(s.db, box, s.projects)
	s.events = event.New(s.db)
	if err := s.bootstrap(ctx); err != nil {
		return err
	}
	if s.logs, err = logs.New(filepath.Join(dir, "logs")); err != nil {
		return err
	}
	s.disk = openDisk(dir, s.cfg.FreeMin, s.log)
	// The engine and the ingress process take most of the time; they do not
	// need each other.
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { s.engine, err = s.openEngine(gctx); return err })
	g.Go(func() (err error) { s.ingress, err = s.startIngress(gctx); return err })
	if err := g.Wait(); err != nil {
		return err
	}
	pushMax, _ := size(s.cfg.PushMax, 0)
	s.sources, err = source.New(source.Config{Dir: filepath.Join(dir, "git"), MaxPush: pushMax, Private: s.cfg.PrivateSources, Public: s.cfg.PublicURL, Room: s.disk.room}, s.db, s.projects, s.secrets)
	if err != nil {
		return err
	}
	s.images = image.New(image.Config{Hosts: s.ownHosts(), Room: s.disk.room, Full: s.disk.full}, s.db, s.projects, s.engine.Images(), s.engine.Blobs())
	s.ingresses = ingress.New(s.db, s.projects, s.cfg.Domain)
	return s.openCore()
}

// bootstrap makes the first workspace, its owner and a token of every scope.
func (s *Server) bootstrap(ctx context.Context) error {
	file := filepath.Join(s.cfg.DataDir, "admin-token")
	// The token is on disk before the row that makes it valid: a kill between
	// leaves a token that is nobody's, and the next start makes another.
	token, err := s.access.Bootstrap(ctx, "admin", func(tx *db.Tx, u access.User) error {
		_, err := project.BootstrapWorkspace(tx, "default", u)
		return err
	}, func(secret string) error { return writeSecret(file, secret) })
	if err != nil || token == "" {
		return err
	}
	s.log.Info("first start: workspace default, user admin", "token", file)
	return nil
}

func writeSecret(file, secret string) error {
	f, err := os.OpenFile(file+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(secret + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func (s *Server) openEngine(ctx context.Context) (*local.Engine, error) {
	o := local.Options{
		Dir: filepath.Join(s.cfg.DataDir, "engine"), DataDir: s.cfg.DataDir, Logger: s.log.With("room", "engine"), Mirrors: map[string]string{},
		PlainLoopback: true,
	}
	for _, m := range s.cfg.Mirrors {
		host, to, _ := strings.Cut(m, "=")
		o.Mirrors[host] = to
	}
	for _, f := range s.cfg.RegistryCAs {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("--registry-ca: %w", err)
		}
		o.CAs = append(o.CAs, b)
	}
	total, _, _ := blocks(s.cfg.DataDir)
	o.CacheMax, _ = size(s.cfg.CacheMax, total)
	e, err := local.Open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	return e, nil
}

func (s *Server) startIngress(ctx context.Context) (*ingress.Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return ingress.Start(ctx, ingressConfig(s.cfg, self))
}

func ingressConfig(cfg Config, program string) ingress.Config {
	return ingress.Config{
		Program: program, DataDir: filepath.Join(cfg.DataDir, "ingress"), RunDir: filepath.Join(local.RunDir(filepath.Join(cfg.DataDir, "engine")), "ingress"),
		HTTP: cfg.IngressHTTP, HTTPS: cfg.IngressHTTPS, TrustedProxies: cfg.proxies, Log: filepath.Join(cfg.DataDir, "ingress", "ingress.log"),
	}
}

// ownHosts are the names that mean this server's registry.
func (s *Server) ownHosts() []string {
	hosts := []string{"slipway.local", s.listen.Addr().String(), s.cfg.Listen}
	_, public, _ := strings.Cut(s.cfg.PublicURL, "://")
	hosts = append(hosts, public)
	if _, port, err := net.SplitHostPort(s.listen.Addr().String()); err == nil {
		hosts = append(hosts, "localhost:"+port, "127.0.0.1:"+port)
	}
	return hosts
}

// run starts the loops and the listener and stops them when ctx ends.
func (s *Server) run(ctx context.Context, out io.Writer) error {
	// Loops end before the rooms they use are closed; what they started goes on.
	work, endWork := context.WithCancelCause(context.WithoutCancel(ctx))
	g, work := errgroup.WithContext(work)
	loop := func(name string, f func(context.Context) error) {
		g.Go(func() error {
			if err := f(work); err != nil && work.Err() == nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	loop("stacks", s.stacks.Run)
	loop("pipelines", s.runner.Run)
	loop("triggers", s.trigger.Run)
	loop("webhooks", s.hooks.Run)
	loop("sources", s.sources.Run)
	loop("images", s.images.Run)
	loop("logs", func(ctx context.Context) error { return s.logs.Run(ctx, s.cfg.LogKeep) })
	loop("housekeeping", s.keepHouse)
	loop("disk", func(ctx context.Context) error { return s.disk.watch(ctx, s.runner.End) })
	var err error
	// Requests are not of the loops: those under way are answered.
	asked, endAsked := context.WithCancelCause(context.WithoutCancel(ctx))
	defer endAsked(nil)
	srv := &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), BaseContext: func(net.Listener) context.Context { return asked },
	}
	served := make(chan error, 1)
	go func() {
		if s.cfg.TLSCert != "" {
			served <- srv.ServeTLS(s.listen, s.cfg.TLSCert, s.cfg.TLSKey)
			return
		}
		served <- srv.Serve(s.listen)
	}()
	close(s.ready)
	fmt.Fprintf(out, "slipway %s is ready: %s (data in %s, %d ms)\n", s.version.Version, s.cfg.PublicURL, s.cfg.DataDir, time.Since(s.started).Milliseconds())
	if s.cfg.Demo {
		g.Go(func() error { return s.demo(work, out) })
	}
	select {
	case <-ctx.Done():
	case <-work.Done(): // a loop failed
	case err = <-served:
	}
	s.log.Info("stopping", "why", context.Cause(ctx))
	close(s.going)
	endWork(engine.ErrDetach)
	if drain(ctx, srv, drainTime) != nil {
		endAsked(engine.ErrDetach)
		if drain(ctx, srv, cutTime) != nil {
			_ = srv.Close()
		}
	}
	return errors.Join(ignore(err, http.ErrServerClosed), g.Wait())
}

// drain takes no more requests and waits for those under way.
func drain(ctx context.Context, srv *http.Server, long time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), long)
	defer cancel()
	return srv.Shutdown(ctx)
}

func ignore(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}

func (s *Server) demo(ctx context.Context, out io.Writer) error {
	b, err := os.ReadFile(filepath.Join(s.cfg.DataDir, "admin-token"))
	if err != nil {
		return err
	}
	c := cli.NewClient("http://"+s.listen.Addr().String(), strings.TrimSpace(string(b)))
	if err := cli.Demo(ctx, c, out); err != nil && ctx.Err() == nil {
		fmt.Fprintln(out, "the demo failed:", err)
	}
	return nil
}

// kept is how long events and deleted projects are kept.
const kept = 7 * 24 * time.Hour

// keepHouse drops what is old and what nobody owns, now and once an hour. The
// rows of a project go first, and with them the tags of its images; what the
// engine and the logs have of it has no owner from then on. Its repositories of
// git the room source looks for. The file systems of pipelines go with them at
// once.
func (s *Server) keepHouse(ctx context.Context) error {
	t := time.NewTicker(time.Hour)
	defer t.Stop()
	gone, stop := s.pipelines.Gone()
	defer stop()
	for {
		if err := s.events.Prune(ctx, kept); err != nil && ctx.Err() == nil {
			s.log.Warn("prune events", "err", err)
		}
		if _, err := s.projects.Remove(ctx, kept); err != nil && ctx.Err() == nil {
			s.log.Warn("remove deleted projects", "err", err)
		}
		if err := errors.Join(s.sweep(ctx, ""), s.runner.TidyFiles(ctx), s.pipelines.SweepLogs(ctx), s.pipelines.SweepLocal(ctx)); err != nil && ctx.Err() == nil {
			s.log.Warn("sweep", "err", err)
		}
		for hour := false; !hour; {
			select {
			case <-t.C:
				hour = true
			case <-s.disk.low:
				if err := s.runner.TidyFiles(ctx); err != nil && ctx.Err() == nil {
					s.log.Warn("drop what is only of some use", "err", err)
				}
			case <-gone:
				if err := s.sweep(ctx, "pipeline/"); err != nil && ctx.Err() == nil {
					s.log.Warn("sweep pipelines", "err", err)
				}
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// close ends what open made, in reverse; containers and the ingress process
// live on.
func (s *Server) close() error {
	var errs []error
	if s.listen != nil {
		_ = s.listen.Close()
	}
	if s.ingress != nil {
		errs = append(errs, s.ingress.Close())
	}
	if s.engine != nil {
		errs = append(errs, s.engine.Close())
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// cause is the innermost text of a network error: "address already in use".
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

var levels = map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}

func newLogger(cfg Config, w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: levels[cfg.LogLevel]}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
