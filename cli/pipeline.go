package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// group is a command that only has others.
func group(name, short string, of ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: name, Short: short, RunE: func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return Usagef("there is no command %q; see slipway %s --help", args[0], name)
		}
		return c.Help()
	}}
	g.AddCommand(of...)
	return g
}

// localRun is what `slipway pipeline run --local` is asked for.
type localRun struct {
	who      who
	project  string
	pipeline string
	file     string
	vars     []string
	secrets  []string
	actions  []string
	comment  string
	refresh  bool
}

func pipelineCommand() *cobra.Command {
	var r localRun
	var local bool
	run := &cobra.Command{
		Use: "run --local", Short: "Run a pipeline on your working tree as it lies here", Args: NoArgs,
		Long: `Runs a pipeline of the server on the checkout that you are in: with what you changed,
added and deleted since the last commit, without what git ignores. Your index, branches
and commits stay as they are. The log comes here, and the exit code is 0 if the run is
successful. Ctrl-C cancels the run; a second one leaves it.

What the run makes is its own: no tag of an image and no variable of the pipeline moves,
nothing is pushed to a registry elsewhere, its files are a copy, and later runs are
compared with others.`,
		Example: `  slipway pipeline run --local
  slipway pipeline run --local --project default/hello --pipeline main --action Test --var LEVEL=debug
  slipway pipeline run --local --pipeline buddy.yml`,
		RunE: func(c *cobra.Command, _ []string) error {
			if !local {
				return Usagef("slipway pipeline run knows only --local yet: other runs are started by a push, or over the API")
			}
			return r.run(c)
		},
	}
	r.who.flags(run)
	f := run.Flags()
	f.BoolVar(&local, "local", false, "run the working tree that you are in")
	f.StringVar(&r.project, "project", "", "`WORKSPACE/PROJECT` (SLIPWAY_PROJECT, or that of the checkout's git remote)")
	f.StringVar(&r.pipeline, "pipeline", "", "`name` or identifier of the pipeline, or a .yml file of the tree that says what is run; not needed if there is one")
	f.StringVar(&r.file, "file", "", "`file` of the tree that says what is run, in the place of the pipeline")
	f.StringArrayVar(&r.vars, "var", nil, "`KEY=VALUE` of a variable of the run; KEY alone takes the value from your environment")
	f.StringArrayVar(&r.secrets, "secret", nil, "`KEY` of a hidden variable of the run, with the value from your environment")
	f.StringArrayVar(&r.actions, "action", nil, "`name` of an action to be run, and not the others")
	f.StringVar(&r.comment, "comment", "", "`text` for the run")
	f.BoolVar(&r.refresh, "refresh", false, "begin with an empty file system")
	return group("pipeline", "Pipelines", run)
}

func (r *localRun) run(c *cobra.Command) error {
	cl, err := r.who.client()
	if err != nil {
		return err
	}
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(interrupts)
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	return r.here(c.Context(), cl, dir, c.OutOrStdout(), c.ErrOrStderr(), interrupts)
}

// here runs the checkout that dir lies in. Until the run is started ctx ends it;
// from then on interrupts do.
func (r *localRun) here(ctx context.Context, cl *Client, dir string, out, said io.Writer, interrupts <-chan os.Signal) error {
	variables, err := r.variables()
	if err != nil {
		return err
	}
	t, err := takeTree(ctx, dir)
	if err != nil {
		return err
	}
	defer t.close()
	in, err := r.projectOf(cl, t.remotes(ctx))
	if err != nil {
		return err
	}
	definition, err := r.definition(ctx, t, dir)
	if err != nil {
		return err
	}
	p, err := r.pipelineOf(ctx, cl, in)
	if err != nil {
		return err
	}
	fmt.Fprintln(said, t.about)
	for _, m := range t.modules {
		fmt.Fprintf(said, "the submodule %s is in the run as the commit that is added here, without changes in it; with the project's fetch_submodules off it is an empty folder\n", m)
	}
	if err := t.push(ctx, cl, in, terminal(said)); err != nil {
		return err
	}
	body := map[string]any{"commit": t.commit, "definition": definition, "actions": r.actions, "variables": variables, "comment": r.comment, "refresh": r.refresh}
	workspace, name, _ := strings.Cut(in, "/")
	at := fmt.Sprintf("/workspaces/%s/projects/%s/pipelines/%d/executions", url.PathEscape(workspace), url.PathEscape(name), p.ID)
	number, err := start(context.WithoutCancel(ctx), cl, "/slipway/v1"+at+":local", body)
	if err != nil {
		return err
	}
	fmt.Fprintf(said, "execution %d of pipeline %s in %s\n", number, p.Name, in)
	f := &follower{
		Client: cl, path: fmt.Sprintf("%s/%d", at, number), out: out, shown: map[string]int{}, whole: map[string]bool{}, interrupts: interrupts,
	}
	e, err := f.follow(context.WithoutCancel(ctx))
	if err != nil {
		return fmt.Errorf("execution %d: %w", number, err)
	}
	if e.Status != "SUCCESSFUL" {
		return fmt.Errorf("execution %d is %s", number, strings.TrimSuffix(e.Status+": "+e.failure(), ": "))
	}
	fmt.Fprintf(said, "execution %d is SUCCESSFUL\n", number)
	return nil
}

// start starts a run, and if the answer is lost asks for it again: the server
// starts it once.
func start(ctx context.Context, cl *Client, path string, body any) (int64, error) {
	keyed := *cl
	keyed.Key = rand.Text()
	for try := 0; ; try++ {
		var x struct{ Number int64 }
		err := keyed.Do(ctx, "POST", path, body, &x)
		var refused *Refused
		if err == nil || try == 3 || errors.As(err, &refused) {
			return x.Number, err
		}
		select { // a server that starts again is there soon
		case <-time.After(time.Second):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// variables are those of the flags.
func (r *localRun) variables() ([]map[string]any, error) {
	l := []map[string]any{}
	add := func(flag, key string, value string, given, hidden bool) error {
		if !given {
			var ok bool
			if value, ok = os.LookupEnv(key); !ok {
				return Usagef("%s %s: there is no %s in the environment", flag, key, key)
			}
		}
		l = append(l, map[string]any{"key": key, "value": value, "encrypted": hidden})
		return nil
	}
	for _, v := range r.vars {
		key, value, given := strings.Cut(v, "=")
		if err := add("--var", key, value, given, false); err != nil {
			return nil, err
		}
	}
	for _, key := range r.secrets {
		if strings.Contains(key, "=") {
			return nil, Usagef("--secret takes a name: arguments are seen by everybody on this machine, so the value comes from the environment")
		}
		if err := add("--secret", key, "", false, true); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// projectOf finds the project, "workspace/name".
func (r *localRun) projectOf(cl *Client, remotes []string) (string, error) {
	p := r.project
	if p == "" {
		p = os.Getenv("SLIPWAY_PROJECT")
	}
	if p != "" {
		if workspace, name, ok := strings.Cut(p, "/"); !ok || workspace == "" || name == "" || strings.Contains(name, "/") {
			return "", Usagef("--project %q: it is WORKSPACE/PROJECT", p)
		}
		return p, nil
	}
	server, err := url.Parse(cl.URL)
	if err != nil {
		return "", err
	}
	for _, remote := range remotes {
		u, err := url.Parse(remote)
		if err != nil || u.Host != server.Host {
			continue
		}
		path, ok := strings.CutPrefix(u.Path, server.Path+"/git/")
		if path, end := strings.CutSuffix(strings.TrimSuffix(path, "/"), ".git"); ok && end && strings.Count(path, "/") == 1 {
			return path, nil
		}
	}
	return "", fmt.Errorf("no git remote of the checkout is a project of %s: say which with --project WORKSPACE/PROJECT", cl.URL)
}

// definition is the file that says what is run, from the root of the checkout. The
// pipeline that it is of is that of the flag, or the only one in it.
func (r *localRun) definition(ctx context.Context, t *worktree, dir string) (string, error) {
	file := r.file
	if ext := filepath.Ext(r.pipeline); file == "" && (ext == ".yml" || ext == ".yaml") {
		file, r.pipeline = r.pipeline, ""
	}
	if file == "" {
		return "", nil
	}
	at := file
	if !filepath.IsAbs(at) {
		at = filepath.Join(dir, file)
	}
	// Of the folder alone: a link in the tree is one, and no file.
	if folder, err := filepath.EvalSymlinks(filepath.Dir(at)); err == nil {
		at = filepath.Join(folder, filepath.Base(at))
	}
	name, err := filepath.Rel(t.top, at)
	if err != nil || !filepath.IsLocal(name) {
		return "", Usagef("--pipeline %s: it is not in the checkout %s", file, t.top)
	}
	text, err := os.ReadFile(at)
	if err != nil {
		return "", err
	}
	if name = filepath.ToSlash(name); !t.has(ctx, name) {
		return "", Usagef("--pipeline %s: git ignores it, so it is not in the tree that is run", file)
	}
	if r.pipeline != "" {
		return name, nil
	}
	var l []struct{ Pipeline, Name string }
	if err := yaml.Unmarshal(text, &l); err != nil {
		return "", fmt.Errorf("%s is no list of pipelines: %w", file, err)
	}
	var names []string
	for _, p := range l {
		if p.Pipeline == "" {
			p.Pipeline = p.Name
		}
		names = append(names, p.Pipeline)
	}
	if len(names) == 1 {
		r.pipeline = names[0]
		return name, nil
	}
	return "", Usagef("%s has %d pipelines (%s): say which with --pipeline NAME --file %s", file, len(names), strings.Join(names, ", "), file)
}

// named is a pipeline of the server.
type named struct {
	ID               int64
	Name, Identifier string
}

// pipelineOf finds the pipeline.
func (r *localRun) pipelineOf(ctx context.Context, cl *Client, in string) (named, error) {
	workspace, project, _ := strings.Cut(in, "/")
	var all struct{ Pipelines []named }
	for page := 1; ; page++ {
		var l struct{ Pipelines []named }
		path := fmt.Sprintf("/workspaces/%s/projects/%s/pipelines?per_page=100&page=%d", url.PathEscape(workspace), url.PathEscape(project), page)
		if err := cl.Do(ctx, "GET", path, nil, &l); err != nil {
			if IsStatus(err, http.StatusNotFound) {
				err = fmt.Errorf("there is no project %s at %s, or it is not for you to see", in, cl.URL)
			}
			return named{}, err
		}
		if len(l.Pipelines) == 0 {
			break
		}
		all.Pipelines = append(all.Pipelines, l.Pipelines...)
	}
	var names []string
	for _, p := range all.Pipelines {
		names = append(names, p.Identifier)
	}
	for _, is := range []func(named) bool{
		func(p named) bool { return p.Identifier == r.pipeline },
		func(p named) bool { return p.Name == r.pipeline },
		func(named) bool { return r.pipeline == "" && len(names) == 1 },
	} {
		if i := slices.IndexFunc(all.Pipelines, is); i >= 0 {
			return all.Pipelines[i], nil
		}
	}
	switch {
	case len(names) == 0:
		return named{}, fmt.Errorf("the project %s has no pipeline: make one first, whose name and rights the run has", in)
	case r.pipeline == "":
		return named{}, Usagef("the project %s has the pipelines %s: say which with --pipeline", in, strings.Join(names, ", "))
	}
	return named{}, fmt.Errorf("the project %s has no pipeline %q, but %s", in, r.pipeline, strings.Join(names, ", "))
}

// terminal gives w if somebody watches it, else nil.
func terminal(w io.Writer) io.Writer {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	if fi, err := f.Stat(); err != nil || fi.Mode()&os.ModeCharDevice == 0 {
		return nil
	}
	return w
}
