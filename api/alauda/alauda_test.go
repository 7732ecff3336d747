package alauda

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"slipway/access"
	"slipway/api/apitest"
	"slipway/pipeline"
	"slipway/project"
)

// Every bad field is told of at once, by its name in the body.
func TestBadInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.simple("app", master)
	two := w.simple("two", master+`,{"code_repo_type":"tag","code_repo_type_value":"9.9","docker_repo_tag":"v9"}`)
	id := made["build_config"].(map[string]any)["tag_configs"].([]any)[0].(map[string]any)["id"]
	other := two["build_config"].(map[string]any)["tag_configs"].([]any)[0].(map[string]any)["id"]
	w.get(201, "POST", "/v1/repositories/alauda", `{"repo_name":"plain"}`)
	put := "/v1/repositories/alauda/app/build-config"
	for _, c := range []struct {
		method, path, body string
		status             int
		code               string
		fields             string
	}{
		{"POST", "/v1/repositories/alauda", `{`, 400, "invalid_args", ""},
		{"POST", "/v1/repositories/alauda", ``, 400, "invalid_args", ""},
		{"POST", "/v1/repositories/alauda", `[]`, 400, "invalid_args", ""},
		{"POST", "/v1/repositories/alauda", `{}`, 400, "invalid_args", "repo_name"},
		{"POST", "/v1/repositories/alauda", `{"repo_name":"Up","namespace":"other","is_public":"yes"}`, 400, "invalid_args", "is_public"},
		{"POST", "/v1/repositories/alauda", `{"repo_name":"Up","namespace":"other"}`, 400, "invalid_args", "repo_name namespace"},
		{
			"POST", "/v1/repositories/alauda", `{"repo_name":"x","description":1,"full_description":[],"build_config":{"code_repo_client":2,"email_enabled":"no","build_node":3,
			"tag_configs":[{"version_tagging":1.5,"is_active":1,"docker_repo_tag":7,"build_cache_enabled":"x"}]}}`, 400, "invalid_args",
			"description full_description build_config.code_repo_client build_config.email_enabled build_config.build_node build_config.tag_configs.0.version_tagging " +
				"build_config.tag_configs.0.is_active build_config.tag_configs.0.docker_repo_tag build_config.tag_configs.0.build_cache_enabled",
		},
		{"POST", "/v1/repositories/alauda", `{"repo_name":"x","build_config":{}}`, 400, "invalid_args", "build_config.code_repo_client build_config.tag_configs"},
		{
			"POST", "/v1/repositories/alauda", `{"repo_name":"x","build_config":{"code_repo_client":"github","email_enabled":true,"tag_configs":[{},{"docker_build_tag":"-x","code_repo_type":"commit",
			"version_tagging":3,"is_active":true,"build_context_path":"a","dockerfile_location":"b"}]}}`, 400, "invalid_args",
			"build_config.code_repo_client build_config.tag_configs.0.docker_repo_tag build_config.tag_configs.0.code_repo_type " +
				"build_config.tag_configs.0.code_repo_type_value build_config.tag_configs.1.docker_repo_tag build_config.tag_configs.1.code_repo_type " +
				"build_config.tag_configs.1.code_repo_type_value build_config.tag_configs.1.build_context_path build_config.tag_configs.1.dockerfile_location " +
				"build_config.tag_configs.1.version_tagging build_config.email_enabled build_config.tag_configs.1.is_active",
		},
		{
			"POST", "/v1/repositories/alauda", `{"repo_name":"x","build_config":{"code_repo_client":"GitHub","code_repo_name":"a/b","tag_configs":[` + master + "," + master + `]}}`, 400, "invalid_args",
			"build_config.code_repo_namespace build_config.code_repo_name build_config.tag_configs.1.docker_repo_tag",
		},
		{"POST", "/v1/repositories/alauda", `{"repo_name":"x","build_config":{"code_repo_client":"Simple","tag_configs":[` + master + `]}}`, 400, "invalid_args", "build_config.code_repo_clone_url"},
		{"POST", "/v1/repositories/alauda", `{"repo_name":"x","build_config":{"code_repo_client":"Simple","code_repo_clone_url":"file:///etc","tag_configs":[` + master + `]}}`, 400, "invalid_args", "build_config.code_repo_clone_url"},
		{"POST", "/v1/repositories/alauda", `{"repo_name":"x","build_config":{"code_repo_client":"FileUpload","tag_configs":[` + master + `]}}`, 400, "invalid_args", "build_config.code_repo_client"},
		{"POST", "/v1/repositories/alauda", `{"repo_name":"app"}`, 409, "resource_already_exist", ""},
		{"POST", "/v1/repositories/nobody", `{"repo_name":"app"}`, 404, "resource_not_exist", ""},
		{"GET", "/v1/repositories/alauda/none", ``, 404, "resource_not_exist", ""},
		{"GET", "/v1/repositories/alauda/app/tags", ``, 404, "resource_not_exist", ""},
		{"GET", "/v1/repositories/alauda/app/tags/latest", ``, 404, "resource_not_exist", ""},
		{"POST", "/v1/repositories/alauda/app/tag-configs-merge", `[]`, 404, "resource_not_exist", ""},
		{"POST", "/v1/generate-api-token", `{}`, 404, "resource_not_exist", ""},
		{"GET", "/v1/auth/profile", ``, 404, "resource_not_exist", ""},
		{"GET", "/v1/orgs/", ``, 404, "resource_not_exist", ""},
		{"GET", "/v1", ``, 404, "resource_not_exist", ""},
		{"DELETE", "/v1/repositories/alauda/app", ``, 405, "method_not_allowed", ""},
		{"GET", "/v1/repositories/alauda", ``, 405, "method_not_allowed", ""},
		{"PUT", put, `{"tag_configs":[]}`, 400, "invalid_args", "tag_configs"},
		{
			"PUT", put, `{"code_repo_client":"GitHub","code_repo_clone_url":"https://example.com/x","email_enabled":true,"tag_configs":[{"id":99999,"code_repo_type":"x","code_repo_type_value":"m","docker_repo_tag":"a","is_active":true}]}`,
			400, "invalid_args", "tag_configs.0.code_repo_type email_enabled tag_configs.0.is_active code_repo_client code_repo_clone_url tag_configs.0.id",
		},
		{
			"PUT", put, fmt.Sprintf(`{"tag_configs":[{"id":%v,"docker_build_config_id":99,"code_repo_type":"branch","code_repo_type_value":"m","docker_repo_tag":"a"},{"id":%v,"code_repo_type":"branch","code_repo_type_value":"m","docker_repo_tag":"b"},
			{"id":%v,"code_repo_type":"branch","code_repo_type_value":"m","docker_repo_tag":"c"}]}`, id, id, other),
			400, "invalid_args", "tag_configs.0.docker_build_config_id tag_configs.1.id tag_configs.2.id",
		},
		{"PUT", "/v1/repositories/alauda/plain/build-config", `{"tag_configs":[` + master + `]}`, 404, "resource_not_exist", ""},
		{"PUT", "/v1/repositories/alauda/none/build-config", `{"tag_configs":[` + master + `]}`, 404, "resource_not_exist", ""},
		{"POST", "/v1/builds", `{}`, 400, "invalid_args", "repo_name"},
		{"POST", "/v1/builds", `{"namespace":1,"repo_name":2,"tag":3,"code_commit_id":4}`, 400, "invalid_args", "namespace repo_name tag code_commit_id"},
		{"POST", "/v1/builds", `{"repo_name":"app","tag":"nope"}`, 400, "invalid_args", "tag"},
		{"POST", "/v1/builds", `{"repo_name":"two"}`, 400, "invalid_args", "tag"},
		{"POST", "/v1/builds", `{"repo_name":"two","tag":"v9"}`, 400, "invalid_args", "tag"},
		{"POST", "/v1/builds", `{"repo_name":"app","tag":"latest","code_commit_id":"0123456789012345678901234567890123456789"}`, 400, "invalid_args", "code_commit_id"},
		{"POST", "/v1/builds", `{"repo_name":"app","tag":"latest","code_commit_id":"-x"}`, 400, "invalid_args", "code_commit_id"},
		{"POST", "/v1/builds", `{"repo_name":"app","code_repo_path":"key"}`, 400, "invalid_args", "code_repo_path"},
		{"POST", "/v1/builds", `{"repo_name":"none","tag":"latest"}`, 404, "resource_not_exist", ""},
		{"POST", "/v1/builds", `{"namespace":"other","repo_name":"app","tag":"latest"}`, 404, "resource_not_exist", ""},
		{"GET", "/v1/builds?page=0", ``, 400, "invalid_args", "page"},
		{"GET", "/v1/builds?page=x", ``, 400, "invalid_args", "page"},
		{"GET", "/v1/builds?page=2", ``, 404, "resource_not_exist", ""},
		{"GET", "/v1/builds?namespace=other", ``, 404, "resource_not_exist", ""},
		{"GET", "/v1/builds?repo_name=none", ``, 404, "resource_not_exist", ""},
		{"GET", "/v1/builds/x", ``, 404, "resource_not_exist", ""},
		{"GET", "/v1/builds/x/logs?start_time=a&end_time=-1", ``, 400, "invalid_args", "start_time end_time"},
		{"GET", "/v1/builds/x/logs", ``, 404, "resource_not_exist", ""},
		{"DELETE", "/v1/builds/x", ``, 405, "method_not_allowed", ""},
	} {
		rec := w.ask(c.method, c.path, c.body)
		var f fault
		if err := json.Unmarshal(rec.Body.Bytes(), &f); err != nil || rec.Code != c.status || f.Detail == "" || len(f.Errors) == 0 {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, rec.Code, rec.Body)
			continue
		}
		var fields []string
		for _, e := range f.Errors {
			if e.Code != c.code || e.Message == "" {
				t.Errorf("%s %s %s: %s", c.method, c.path, c.body, rec.Body)
			}
			if e.Field != "" {
				fields = append(fields, e.Field)
			}
		}
		if got := strings.Join(fields, " "); got != c.fields {
			t.Errorf("%s %s %s: fields %s\nwant %s in %s", c.method, c.path, c.body, got, c.fields, rec.Body)
		}
	}
	// What was refused left nothing behind.
	if l, err := w.h.Projects.List(t.Context(), w.admin, project.Filter{}); err != nil || len(l) != 3 {
		t.Errorf("%v, %d projects", err, len(l))
	}
	if m := w.get(200, "GET", "/v1/builds", ""); m["count"] != 0.0 {
		t.Error(m)
	}
	w.token = "slw_nobody"
	rec := w.ask("GET", "/v1/builds", "")
	if rec.Code != 401 || rec.Header().Get("WWW-Authenticate") != "Token" || !strings.Contains(rec.Body.String(), `"code":"unauthenticated"`) {
		t.Error(rec.Code, rec.Header(), rec.Body)
	}
}

// A login inside the URL of the code is used, and seen nowhere.
func TestLoginInURL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	url := strings.Replace(w.vars["git"], "http://", "http://ann:hush-hush@", 1) + "/closed/o/test"
	clean := w.vars["git"] + "/closed/o/test"
	made := w.ask("POST", "/v1/repositories/alauda", fmt.Sprintf(`{"repo_name":"app","build_config":{"code_repo_client":"Simple","code_repo_clone_url":%q,
		"tag_configs":[%s]}}`, url, master))
	if made.Code != 201 || !strings.Contains(made.Body.String(), `"code_repo_path":"`+clean+`"`) {
		t.Fatal(made.Code, made.Body)
	}
	b := w.get(201, "POST", "/v1/builds", `{"namespace":"alauda","repo_name":"app","tag":"latest"}`)
	if b = w.wait(b["build_id"].(string)); b["status"] != "S" || b["code_repo_http_url"] != clean {
		t.Error(b)
	}
	seen := []string{made.Body.String()}
	for _, p := range []string{"/v1/repositories/alauda/app", "/v1/builds", "/v1/builds/" + b["build_id"].(string), "/v1/builds/" + b["build_id"].(string) + "/logs"} {
		seen = append(seen, w.ask("GET", p, "").Body.String())
	}
	// A wrong one, and one that cannot be read, are told of without it.
	wrong := strings.Replace(url, "hush-hush", "hush-hush2", 1)
	w.ask("POST", "/v1/repositories/alauda", fmt.Sprintf(`{"repo_name":"wrong","build_config":{"code_repo_client":"Simple","code_repo_clone_url":%q,"tag_configs":[%s]}}`, wrong, master))
	refused := w.ask("POST", "/v1/builds", `{"repo_name":"wrong"}`)
	if refused.Code != 400 || !strings.Contains(refused.Body.String(), "refuses the login of ann") {
		t.Error(refused.Code, refused.Body)
	}
	seen = append(seen, refused.Body.String())
	for _, bad := range []string{"http://ann:hush-hush%zz@h/x", "http://ann:hush-hush@h", "ftp://ann:hush-hush@h/x", "ssh://git:hush-hush@h/x"} {
		seen = append(seen, w.ask("POST", "/v1/repositories/alauda", fmt.Sprintf(`{"repo_name":"r%d","build_config":{"code_repo_client":"Simple","code_repo_clone_url":%q,"tag_configs":[%s]}}`,
			len(seen), bad, master)).Body.String())
	}
	// A token in place of the user name is no less a secret.
	seen = append(seen, w.ask("POST", "/v1/repositories/alauda", fmt.Sprintf(`{"repo_name":"token","build_config":{"code_repo_client":"Simple","code_repo_clone_url":%q,"tag_configs":[%s]}}`,
		strings.Replace(url, "ann:hush-hush", "hush-hush", 1), master)).Body.String(), w.ask("POST", "/v1/builds", `{"repo_name":"token"}`).Body.String())
	for _, s := range seen {
		if strings.Contains(s, "hush") {
			t.Error(s)
		}
	}
	w.nowhere("hush-hush")
}

// nowhere looks for a secret in all files of the world but those of git and of
// the outside repository, which is not ours.
func (w *world) nowhere(secret string) {
	w.t.Helper()
	for _, dir := range []string{"x.db", "x.db-wal", "git", "logs"} {
		out, err := exec.Command("grep", "-rlaF", secret, filepath.Join(w.dir, dir)).Output()
		if len(out) > 0 {
			w.t.Errorf("in clear in %s (%v)", out, err)
		}
	}
}

// The tag of the configuration and that of the version lead to the same image,
// whose id is told of; two builds of one second have two version tags.
func TestBothTags(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.simple("app", strings.Replace(master, "{", `{"version_tagging":1,`, 1)+
		strings.NewReplacer("{", `,{"version_tagging":2,`, "latest", "release").Replace(master)+
		strings.NewReplacer("{", `,{"version_tagging":0,`, "latest", "none").Replace(master)+
		strings.NewReplacer("{", `,{"is_version_tagging":true,`, "latest", "early", "docker_repo_tag", "docker_build_tag").Replace(master))
	versions := map[string]bool{}
	tags := map[string]string{}
	for _, tag := range []string{"latest", "latest", "early", "release", "none", "latest"} {
		b := w.get(201, "POST", "/v1/builds", fmt.Sprintf(`{"repo_name":"app","tag":%q}`, tag))
		if b["status"] != "W" || b["step_at"] != 1.0 || b["is_removable"] != true || b["image_id"] != nil {
			t.Error(b)
		}
		early := b["docker_repo_version_tag"]
		b = w.wait(b["build_id"].(string))
		if b["status"] != "S" || b["step_at"] != 50.0 || b["is_removable"] != false {
			t.Fatal(b)
		}
		id, _ := b["image_id"].(string)
		if len(id) != 12 {
			t.Errorf("image id %q", id)
		}
		tags[tag] = id
		switch v, _ := b["docker_repo_version_tag"].(string); tag {
		case "none":
			if b["docker_repo_version_tag"] != nil {
				t.Error(b)
			}
		case "release":
			if v != b["code_head_commit"] || v != w.vars["head"] {
				t.Error(b)
			}
			tags[v] = id
		default:
			made, err := time.Parse("2006-01-02T15:04:05.000Z", b["created_at"].(string))
			if err != nil || !regexp.MustCompile(`^`+made.Format("v20060102\\.150405")+`(-[2-9])?$`).MatchString(v) || versions[v] || early != v {
				t.Errorf("version %s of %s (%v, %v)", v, b["created_at"], err, early)
			}
			versions[v] = true
			tags[v] = id
		}
	}
	list, err := w.h.Images.Tags(t.Context(), w.admin, w.home.ID, "app")
	w.must(err)
	got := map[string]string{}
	for _, l := range list {
		got[l.Tag] = l.ConfigID[:12]
	}
	if fmt.Sprint(got) != fmt.Sprint(tags) {
		t.Errorf("tags %v\nwant %v", got, tags)
	}
	m := w.get(200, "GET", "/v1/repositories/alauda/app", "")
	if m["upload"] != 6.0 || m["download"] != 0.0 || m["pushed_at"] == nil || m["pulled_at"] != nil {
		t.Error(m)
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.simple("app", master)
	w.simple("other", master)
	var ids []string
	for i := range 41 {
		repo := "app"
		if i == 7 {
			repo = "other"
		}
		ids = append(ids, w.get(201, "POST", "/v1/builds", fmt.Sprintf(`{"repo_name":%q}`, repo))["build_id"].(string))
	}
	link := func(s string) any {
		if s == "" {
			return nil
		}
		return site + "/v1/builds?" + s
	}
	for _, c := range []struct {
		query          string
		count, from, n int
		next, previous string
	}{
		{"", 41, 40, 20, "page=2", ""},
		{"?page=1&namespace=alauda", 41, 40, 20, "namespace=alauda&page=2", ""},
		{"?page=2", 41, 20, 20, "page=3", "page=1"},
		{"?page=3", 41, 0, 1, "", "page=2"},
		{"?page=2&repo_name=app&namespace=alauda", 40, -1, 20, "", "namespace=alauda&page=1&repo_name=app"},
		{"?repo_name=other", 1, 7, 1, "", ""},
	} {
		m := w.get(200, "GET", "/v1/builds"+c.query, "")
		l := m["results"].([]any)
		if m["count"] != float64(c.count) || len(l) != c.n || m["next"] != link(c.next) || m["previous"] != link(c.previous) {
			t.Errorf("%s: %v %d %v %v", c.query, m["count"], len(l), m["next"], m["previous"])
			continue
		}
		for i, b := range l {
			if c.from >= 0 && b.(map[string]any)["build_id"] != ids[c.from-i] {
				t.Errorf("%s: %d is not the right one", c.query, i)
			}
		}
	}
	for _, id := range ids {
		w.wait(id)
	}
}

// Letters are the same in both directions of time: every state has one.
func TestLetters(t *testing.T) {
	t.Parallel()
	for _, s := range []pipeline.Status{
		pipeline.Initial, pipeline.Enqueued, pipeline.InProgress, pipeline.Terminating, pipeline.Successful,
		pipeline.Failed, pipeline.Terminated, pipeline.Skipped, pipeline.NotExecuted,
	} {
		if l := letters[s]; l == "" || s.Ended() != strings.Contains("SFD", l) {
			t.Errorf("%s is %q", s, l)
		}
	}
	w := newWorld(t)
	w.simple("app", master)
	release := w.eng.Block("Build")
	defer release()
	b := w.get(201, "POST", "/v1/builds", `{"repo_name":"app"}`)
	path := "/v1/builds/" + b["build_id"].(string)
	b = apitest.Until(t, "the build is at its step", func() (map[string]any, bool) {
		b := w.get(200, "GET", path, "")
		return b, b["step_at"] == 20.0
	})
	if b["status"] != "I" || b["step_at"] != 20.0 || b["is_removable"] != true || b["started_at"] == nil || b["ended_at"] != nil {
		t.Error(b)
	}
	_, err := w.h.Pipelines.Operate(t.Context(), w.admin, pipeline.ExecutionID(b["build_id"].(string)), pipeline.OpCancel)
	w.must(err)
	if b = w.wait(b["build_id"].(string)); b["status"] != "D" || b["step_at"] != 20.0 || b["is_removable"] != false || b["ended_at"] == nil {
		t.Error(b)
	}
}

// What is between two times, ends included.
func TestLogTimes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.simple("app", master)
	id := w.get(201, "POST", "/v1/builds", `{"repo_name":"app"}`)["build_id"].(string)
	w.wait(id)
	read := func(query string) (l []logJSON) {
		w.must(json.Unmarshal(w.ask("GET", "/v1/builds/"+id+"/logs"+query, "").Body.Bytes(), &l))
		return l
	}
	all := read("")
	first, last := all[0].Time, all[len(all)-1].Time
	for query, want := range map[string]int{
		fmt.Sprintf("?start_time=%d&end_time=%d", first, last): len(all), fmt.Sprintf("?start_time=%d", last+1): 0,
		fmt.Sprintf("?end_time=%d", first-1): 0, "?end_time=0": 0, fmt.Sprintf("?start_time=%d", first): len(all), fmt.Sprintf("/?end_time=%d", last): len(all),
	} {
		if got := read(query); got == nil || len(got) != want {
			t.Errorf("%s: %d of %d lines", query, len(got), len(all))
		}
	}
}

// Who has no right to one half of a repository makes none of it, and may not see
// what others have.
func TestRights(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.simple("app", master)
	for _, c := range []struct {
		scopes      []access.Scope
		status, bad int
	}{
		{[]access.Scope{access.ProjectManage}, 403, 403},
		{[]access.Scope{access.ExecutionManage}, 403, 403},
		{[]access.Scope{access.ExecutionManage, access.ProjectManage}, 201, 400},
	} {
		_, token, err := w.h.Access.CreateToken(t.Context(), w.admin, access.NewToken{Name: fmt.Sprint(c.status), Scopes: c.scopes})
		w.must(err)
		admin := w.token
		w.token = token
		body := fmt.Sprintf(`{"repo_name":"made","build_config":{"code_repo_client":"Simple","code_repo_clone_url":"%s/open/o/test","tag_configs":[%s]}}`, w.vars["git"], master)
		if rec := w.ask("POST", "/v1/repositories/alauda", body); rec.Code != c.status {
			t.Errorf("%v: %d %s", c.scopes, rec.Code, rec.Body)
		}
		if rec := w.ask("POST", "/v1/repositories/alauda", `{"repo_name":"-","build_config":{}}`); rec.Code != c.bad {
			t.Errorf("%v, bad input: %d %s", c.scopes, rec.Code, rec.Body)
		}
		w.token = admin
	}
}

func TestDocs(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/alauda.md")
	if err != nil {
		t.Fatal(err)
	}
	for p := range (&Handlers{}).Dialect().Table {
		if !strings.Contains(string(page), "`"+p) {
			t.Errorf("docs/alauda.md lacks %s", p)
		}
	}
}

// A log that is larger than a piece is one list all the same.
func TestLogWriter(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 5000} {
		rec := httptest.NewRecorder()
		out := &logWriter{w: rec, to: -1}
		for i := range n {
			out.add(logJSON{fmt.Sprint("line ", i), "INFO", 1})
		}
		out.end()
		var l []logJSON
		if err := json.Unmarshal(rec.Body.Bytes(), &l); err != nil || l == nil || len(l) != n {
			t.Errorf("%d lines: %d, %v", n, len(l), err)
		}
	}
}
