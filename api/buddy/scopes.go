package buddy

import (
	"strings"

	"slipway/access"
)

// accepted gives the scopes of which a token needs one for a route; wider ones,
// and the words of the other family for the same, do as well. The front doors
// decide; a test holds this to them. Nothing is accepted where every token is.
func accepted(pattern string) []access.Scope {
	method, path, _ := strings.Cut(pattern, " ")
	read := method == "GET"
	either := func(info, more access.Scope) []access.Scope {
		if read {
			return []access.Scope{info}
		}
		return []access.Scope{more}
	}
	rest, inProject := strings.CutPrefix(path, "/workspaces/{workspace}/projects/{project}")
	whole, inWorkspace := strings.CutPrefix(path, "/workspaces/{workspace}")
	switch {
	case path == "/user/token":
		return nil
	case strings.HasPrefix(path, "/user/tokens"):
		return either(access.TokenInfo, access.TokenManage)
	case strings.HasPrefix(path, "/user/keys"):
		return []access.Scope{access.UserKey}
	case strings.HasPrefix(path, "/user/emails"):
		return either(access.UserEmail, access.ManageEmails)
	case strings.HasPrefix(path, "/user"):
		return []access.Scope{access.UserInfo}
	case inProject:
		return acceptedInProject(method, rest)
	case strings.HasPrefix(whole, "/members"):
		return either(access.MemberRead, access.MemberManage)
	case strings.HasPrefix(whole, "/groups"):
		return either(access.GroupRead, access.GroupManage)
	case strings.HasPrefix(whole, "/webhooks") && method == "POST":
		return []access.Scope{access.WebhookAdd}
	case strings.HasPrefix(whole, "/webhooks"):
		return either(access.WebhookInfo, access.WebhookManage)
	case strings.HasPrefix(whole, "/permissions"):
		return either(access.PermissionRead, access.PermissionManage)
	case strings.HasPrefix(whole, "/integrations"):
		if method == "POST" {
			return []access.Scope{access.IntegrationAdd}
		}
		return either(access.IntegrationInfo, access.IntegrationManage)
	case strings.HasPrefix(whole, "/variables"):
		return addOrManage(method, access.VariableInfo, access.VariableAdd, access.VariableManage)
	case strings.HasPrefix(whole, "/environments"):
		return addOrManage(method, "ENVIRONMENT_INFO", "ENVIRONMENT_ADD", "ENVIRONMENT_MANAGE")
	case inWorkspace && whole == "/projects":
		return either(access.ProjectRead, access.ProjectWrite)
	case whole == "" && inWorkspace, path == "/workspaces":
		return either(access.Workspace, access.WorkspacesManage)
	}
	return nil
}

// addOrManage is accepted for what has a scope for making, and a wider one for
// changing.
func addOrManage(method string, info, add, manage access.Scope) []access.Scope {
	switch method {
	case "GET":
		return []access.Scope{info}
	case "POST":
		return []access.Scope{add}
	}
	return []access.Scope{manage}
}

// acceptedInProject is accepted for what is below a project.
func acceptedInProject(method, rest string) []access.Scope {
	read := method == "GET"
	switch {
	case rest == "" && method == "DELETE":
		return []access.Scope{access.ProjectDelete}
	case rest == "", strings.HasPrefix(rest, "/members"), strings.HasPrefix(rest, "/groups"):
		if read {
			return []access.Scope{access.ProjectRead}
		}
		return []access.Scope{access.ProjectWrite}
	case strings.HasPrefix(rest, "/repository") && read:
		return []access.Scope{access.RepositoryRead}
	case strings.HasPrefix(rest, "/repository"):
		return []access.Scope{access.RepositoryWrite}
	case strings.HasPrefix(rest, "/pipelines/{pipeline}/files"):
		return []access.Scope{access.ExecutionManage}
	case strings.HasPrefix(rest, "/pipelines") && read:
		return []access.Scope{access.ExecutionInfo}
	case strings.Contains(rest, "/executions"):
		return []access.Scope{access.ExecutionRun}
	case strings.HasPrefix(rest, "/pipelines"):
		return []access.Scope{access.ExecutionManage}
	}
	return nil
}
