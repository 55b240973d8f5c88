// The alerts of deploy/azure/stream-janitor.kql, as scheduled query rules. infra/alerts.json is made of it by make manifests.
param location string
param tags object
param componentId string
param email string
param isEnabled bool

resource people 'Microsoft.Insights/actionGroups@2023-01-01' = {
  name: 'stream-janitor'
  location: 'global'
  tags: tags
  properties: {
    enabled: true
    groupShortName: 'janitor'
    emailReceivers: empty(email) ? [] : [
      {
        name: 'email'
        emailAddress: email
        useCommonAlertSchema: true
      }
    ]
  }
}

resource rules 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = [for alert in loadJsonContent('../alerts.json'): {
  name: alert.name
  location: location
  tags: tags
  kind: 'LogAlert'
  properties: {
    displayName: alert.name
    description: alert.description
    enabled: isEnabled
    severity: alert.severity
    scopes: [componentId]
    evaluationFrequency: 'PT5M'
    windowSize: 'PT5M'
    // The query says how far it looks back; without this it would see five minutes.
    overrideQueryTimeRange: alert.looksBack
    autoMitigate: true
    criteria: {
      allOf: [
        {
          query: alert.query
          timeAggregation: 'Count'
          operator: 'GreaterThan'
          threshold: 0
          failingPeriods: {
            numberOfEvaluationPeriods: 1
            minFailingPeriodsToAlert: 1
          }
        }
      ]
    }
    actions: {
      actionGroups: [people.id]
    }
  }
}]
