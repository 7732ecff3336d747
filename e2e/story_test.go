package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway/cli"
)

// numbered is how many lines the action of the scenario prints, and how fast.
const (
	numbered = 60
	pace     = "20ms"
)

// scenarios are what the server is killed in.
var scenarios = []func(*story, context.Context) error{(*story).tell, (*story).tellOutside}

// story is one pass through a scenario, in projects of its own.
type story struct {
	*job
	from  *elsewhere
	host  string
	steps []step
}

func (s *lane) story(name string) *story {
	y := &story{
		from: s.from,
		job: s.job(name, build(),
			with(run("Count", fmt.Sprintf("/probe lines %d %s /buddy/%s/begun", numbered, pace, name)),
				"run_next", "IN_SOFT_PARALLEL", "trigger_conditions", []any{
					map[string]any{"trigger_condition": "VAR_IS", "trigger_variable_key": "BUDDY_PIPELINE_NAME", "trigger_variable_value": "Work"},
				}),
			run("Beside", fmt.Sprintf("/probe lines %d %s /buddy/%s/beside", numbered, pace, name)),
			run("Look", "/probe cat /buddy/"+name+"/begun /buddy/"+name+"/beside")),
		host: name + ".localhost",
	}
	y.concurrent = true
	return y
}

// tell goes through the scenario. Two things happen at once: a push is built and
// run by two actions beside each other, as a file in it says, and a service is
// hosted, changed, and gives way to another.
func (y *story) tell(ctx context.Context) error {
	dockerfile := "FROM slipway.local/default/steady:latest\nCOPY name /name\nRUN [\"/probe\", \"lines\", \"10\", \"10ms\"]\n"
	file, err := json.Marshal([]any{map[string]any{"pipeline": "work", "events": onMain(), "actions": y.actions}}) // which is YAML, too
	if err != nil {
		return err
	}
	y.inFile = true
	if err := y.commit(ctx, map[string]string{"Dockerfile": dockerfile, "name": y.name, "buddy.yml": string(file)}); err != nil {
		return err
	}
	if err := y.makeProject(ctx); err != nil {
		return err
	}
	g, both := errgroup.WithContext(ctx)
	g.Go(func() error { return y.execute(both) })
	g.Go(func() error { return y.serve(both) })
	if err := g.Wait(); err != nil {
		return err
	}
	// Nothing was started twice, however often it was asked for: a push, and a rerun.
	err = keep(ctx, "executions", time.Minute, func(ctx context.Context) error {
		l, err := y.executions(ctx)
		if err == nil && len(l) != 2 {
			err = wrong("one push made executions %v", l)
		}
		return err
	})
	if err != nil {
		return err
	}
	return y.gone(ctx, y.path())
}

// execute pushes and looks at what becomes of it.
func (y *story) execute(ctx context.Context) error {
	if err := y.makePipeline(ctx); err != nil {
		return err
	}
	if err := y.push(ctx); err != nil {
		return err
	}
	e, err := y.finish(ctx)
	if err != nil {
		return err
	}
	if e.Status != "SUCCESSFUL" || len(e.Steps) != 4 {
		return fmt.Errorf("the execution is %s", e)
	}
	y.steps = e.Steps
	err = keep(ctx, "logs", time.Minute, func(ctx context.Context) error { return y.checkLogs(ctx, e) })
	if err != nil {
		return err
	}
	return y.again(ctx, e)
}

// again looks once more at what the actions have left, in a run that begins there.
func (y *story) again(ctx context.Context, e execution) error {
	first, err := y.log(ctx, e.ID, e.Steps[3])
	if err != nil {
		return err
	}
	r, said, err := y.rerunWhole(ctx, e.ID, "again", map[string]any{"from": e.Steps[3].ID})
	if err != nil {
		return err
	}
	if r.Status != "SUCCESSFUL" || !strings.HasSuffix(said[3], strings.Join(first, "|")) {
		return wrong("the rerun is %s: %q, and not %q", r, said[3], first)
	}
	return nil
}

// wrong is a finding that no patience mends; keep ends at it.
func wrong(format string, a ...any) error { return &cli.Refused{Message: fmt.Sprintf(format, a...)} }

func (y *story) checkLogs(ctx context.Context, e execution) error {
	var logs [4][]string
	for i, st := range e.Steps {
		if st.Status != "SUCCESSFUL" {
			return wrong("action %s is %s", st.Action.Name, st.Status)
		}
		var err error
		if logs[i], err = y.log(ctx, e.ID, st); err != nil {
			return err
		}
	}
	if err := checkBuild(logs[0]); err != nil {
		return wrong("the build's log: %v:\n%s", err, strings.Join(logs[0], "\n"))
	}
	var begun []string
	for _, l := range logs[1:3] {
		begin, err := counted(l, numbered, true)
		if err != nil {
			return wrong("the log of the run: %v:\n%s", err, strings.Join(l, "\n"))
		}
		begun = append(begun, begin)
	}
	// The files say how often the programs were started, whatever the logs say.
	if !slices.Equal(logs[3], begun) {
		return wrong("the actions were started by %v, their logs are of %v", logs[3], begun)
	}
	return nil
}

// checkBuild checks the log of a build whose one step prints ten lines. A build
// that a kill interrupted begins again, which the log says; what it had said
// stays.
func checkBuild(l []string) error {
	if !strings.HasPrefix(l[0], "Note: the actions are those of buddy.yml at commit ") {
		return errors.New("it does not tell of the file")
	}
	l = l[1:]
	var parts [][]string
	from := 0
	for i, s := range l {
		if s == "the server was restarted: the build begins again, with what the cache has" {
			parts = append(parts, l[from:i])
			from = i + 1
		}
	}
	parts = append(parts, l[from:])
	if n := strings.Count(strings.Join(l, "\n"), "Checked out"); n != 1 || !strings.HasPrefix(l[0], "Checked out") {
		return fmt.Errorf("it tells %d times of the checkout", n)
	}
	ran := false
	for i, p := range parts {
		whole := slices.Contains(p, "end")
		switch begin, err := counted(p, -1, whole); {
		case begin == "":
		case err != nil:
			return err
		default: // a kill may come after the step and before the cache knows it
			ran = ran || whole
		}
		if n := strings.Count(strings.Join(p, "\n"), "image sha256:"); n > 1 || i == len(parts)-1 && n != 1 {
			return fmt.Errorf("it tells %d times of the image", n)
		}
	}
	if !ran {
		return errors.New("the step was not done")
	}
	return nil
}

// serve hosts, changes and removes services.
func (y *story) serve(ctx context.Context) error {
	volumes := map[string]any{"data": map[string]any{"name": "data"}}
	declare := func(method, query string, services map[string]any) error {
		return keep(ctx, "declare", time.Minute, func(ctx context.Context) error {
			return y.s.Do(ctx, method, y.stackPath()+query, map[string]any{"services": services, "volumes": volumes}, nil)
		})
	}
	first := map[string]any{"web": hosted("1", "data:/data")}
	if err := declare("PUT", "", first); err != nil {
		return err
	}
	one, err := y.running(ctx, "web")
	if err != nil {
		return err
	}
	if err := y.route(ctx, y.host, "web"); err != nil {
		return err
	}
	a, err := y.s.answers(ctx, y.host, http.StatusOK, "1")
	if err != nil {
		return err
	}
	// Said again, nothing changes; a change waits for the recreate.
	if err := declare("PUT", "", first); err != nil {
		return err
	}
	second := map[string]any{"web": hosted("2", "data:/data")}
	if err := declare("PATCH", "", second); err != nil {
		return err
	}
	if v, err := y.service(ctx, "web"); err == nil && (v.ID != one.ID || !v.RequiresRecreate) {
		return fmt.Errorf("after a change the service is %+v", v)
	}
	b, err := y.s.answers(ctx, y.host, http.StatusOK, "1")
	if err != nil {
		return err
	}
	if a.Boot != b.Boot {
		return fmt.Errorf("the service was started again before it was recreated: %v, %v", a, b)
	}
	err = keep(ctx, "recreate", time.Minute, func(ctx context.Context) error {
		v, err := y.service(ctx, "web")
		if err != nil || !v.RequiresRecreate {
			return err
		}
		return y.s.Do(ctx, "POST", y.stackPath()+"/services/"+one.ID+"/actions/recreate", nil, nil)
	})
	if err != nil {
		return err
	}
	if b, err = y.s.answers(ctx, y.host, http.StatusOK, "2"); err != nil {
		return err
	}
	if len(b.Boots) != 2 || b.Boots[0] != a.Boot || b.Boots[1] != b.Boot {
		return fmt.Errorf("two starts are in the volume as %v; %s was first, %s is there", b.Boots, a.Boot, b.Boot)
	}
	if _, err := y.running(ctx, "web"); err != nil {
		return err
	}
	// Another service takes the volume.
	if err := declare("PUT", "", map[string]any{"aux": hosted("3", "data:/data")}); err != nil {
		return err
	}
	if _, err := y.running(ctx, "aux"); err != nil {
		return err
	}
	if _, err := y.s.answers(ctx, y.host, http.StatusServiceUnavailable, ""); err != nil {
		return err
	}
	if err := y.route(ctx, y.host, "aux"); err != nil {
		return err
	}
	if b, err = y.s.answers(ctx, y.host, http.StatusOK, "3"); err != nil {
		return err
	}
	if len(b.Boots) != 3 {
		return fmt.Errorf("three starts are in the volume as %v", b.Boots)
	}
	if err := y.unroute(ctx, y.host); err != nil {
		return err
	}
	if _, err := y.s.answers(ctx, y.host, http.StatusNotFound, ""); err != nil {
		return err
	}
	return keep(ctx, "stack", time.Minute, func(ctx context.Context) error {
		l, err := y.services(ctx)
		if err == nil && (len(l) != 1 || l[0].ServiceName != "aux" || l[0].Status != "running") {
			err = fmt.Errorf("it has %+v", l)
		}
		return err
	})
}
