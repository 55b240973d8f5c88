param name string
param location string
param tags object

var blobZoneName = 'privatelink.blob.${environment().suffixes.storage}'
var redisZoneName = 'privatelink.redis.azure.net'

resource network 'Microsoft.Network/virtualNetworks@2024-05-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    addressSpace: {
      addressPrefixes: ['10.0.0.0/16']
    }
  }
}

resource appSubnet 'Microsoft.Network/virtualNetworks/subnets@2024-05-01' = {
  parent: network
  name: 'app'
  properties: {
    addressPrefix: '10.0.0.0/24'
    // Flex Consumption runs in what serves Container Apps.
    delegations: [
      {
        name: 'flex'
        properties: {
          serviceName: 'Microsoft.App/environments'
        }
      }
    ]
  }
}

resource endpointSubnet 'Microsoft.Network/virtualNetworks/subnets@2024-05-01' = {
  parent: network
  name: 'endpoints'
  // A network takes one change at a time.
  dependsOn: [appSubnet]
  properties: {
    addressPrefix: '10.0.1.0/24'
  }
}

resource blobZone 'Microsoft.Network/privateDnsZones@2020-06-01' = {
  name: blobZoneName
  location: 'global'
  tags: tags
}

resource blobLink 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2020-06-01' = {
  parent: blobZone
  name: name
  location: 'global'
  properties: {
    registrationEnabled: false
    virtualNetwork: {
      id: network.id
    }
  }
}

resource redisZone 'Microsoft.Network/privateDnsZones@2020-06-01' = {
  name: redisZoneName
  location: 'global'
  tags: tags
}

resource redisLink 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2020-06-01' = {
  parent: redisZone
  name: name
  location: 'global'
  properties: {
    registrationEnabled: false
    virtualNetwork: {
      id: network.id
    }
  }
}

output appSubnetId string = appSubnet.id
output endpointSubnetId string = endpointSubnet.id
output blobZoneId string = blobZone.id
output redisZoneId string = redisZone.id
